//! What libvirt keeps about a domain: its two descriptions, and Kapok's record in both.

use std::ffi::c_int;

use virt::sys;

use super::{Domain, flag};
use crate::{
    error::{Error, Kind},
    ffi::{self, c_string, check},
    xml::{
        domain_view::DomainView,
        metadata::{self, Metadata},
    },
};

/// Which of a domain's two descriptions is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copy {
    /// The running guest's; the persistent one's if it is off.
    Live,
    /// The persistent one, used at the next start.
    Config,
}

impl Domain {
    /// Its whole description. Live descriptions of running guests may wait for a job on them.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if it is gone.
    pub fn xml(&self, copy: Copy) -> Result<String, Error> {
        const CALL: &str = "virDomainGetXMLDesc";
        let flags = flag(copy == Copy::Config, sys::VIR_DOMAIN_XML_INACTIVE);
        // SAFETY: the domain is valid; the string is ours to free.
        unsafe { ffi::take_text(CALL, sys::virDomainGetXMLDesc(self.raw(), flags)) }
    }

    /// Its description, read.
    ///
    /// # Errors
    ///
    /// As [`Domain::xml`]; [`Kind::Invalid`] if it can't be read.
    pub fn view(&self, copy: Copy) -> Result<DomainView, Error> {
        Ok(DomainView::parse(&self.xml(copy)?)?)
    }

    /// Kapok's record in one copy, or nothing if it has none.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] if the record is there but can't be one of ours.
    pub fn metadata(&self, copy: Copy) -> Result<Option<Metadata>, Error> {
        const CALL: &str = "virDomainGetMetadata";
        let space = c_string(CALL, metadata::NAMESPACE)?;
        let flags = match copy {
            Copy::Live => sys::VIR_DOMAIN_AFFECT_CURRENT,
            Copy::Config => sys::VIR_DOMAIN_AFFECT_CONFIG,
        };
        // SAFETY: valid pointers; the string is ours to free.
        let text = unsafe {
            ffi::take_text(
                CALL,
                sys::virDomainGetMetadata(self.raw(), ELEMENT_KIND, space.as_ptr(), flags),
            )
        };
        match text {
            Ok(text) => Ok(Some(Metadata::parse_element(&text)?)),
            // The same kind as "no such domain"; the code tells them apart.
            Err(error) if is_no_metadata(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes Kapok's record into the persistent copy, and into the live one if the guest is on.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] if the domain is gone.
    pub fn set_metadata(&self, metadata: &Metadata) -> Result<(), Error> {
        match self.write_metadata(metadata, self.is_active()?) {
            // It ended between the two calls.
            Err(error) if error.is(Kind::InvalidState) => self.write_metadata(metadata, false),
            outcome => outcome,
        }
    }

    fn write_metadata(&self, metadata: &Metadata, live: bool) -> Result<(), Error> {
        const CALL: &str = "virDomainSetMetadata";
        let element = c_string(CALL, &metadata.element()?)?;
        let prefix = c_string(CALL, metadata::PREFIX)?;
        let space = c_string(CALL, metadata::NAMESPACE)?;
        let flags = sys::VIR_DOMAIN_AFFECT_CONFIG | flag(live, sys::VIR_DOMAIN_AFFECT_LIVE);
        // SAFETY: valid pointers; libvirt copies the strings.
        let outcome = unsafe {
            sys::virDomainSetMetadata(
                self.raw(),
                ELEMENT_KIND,
                element.as_ptr(),
                prefix.as_ptr(),
                space.as_ptr(),
                flags,
            )
        };
        check(CALL, outcome).map(drop)
    }
}

/// `VIR_DOMAIN_METADATA_ELEMENT` as the call wants it. Source: libvirt-domain.h.
const ELEMENT_KIND: c_int = 2;

fn is_no_metadata(error: &Error) -> bool {
    u32::try_from(error.code) == Ok(sys::VIR_ERR_NO_DOMAIN_METADATA)
}
