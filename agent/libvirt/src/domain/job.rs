//! The long job on a domain (migration, backup, save): how far it is, and ending it.

use virt::sys;

use super::Domain;
use crate::{error::Error, ffi::check};

/// A job's kind of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// There is no job.
    None,
    /// It goes on; its end can be estimated or not.
    Active,
    /// It ended well.
    Completed,
    /// It failed.
    Failed,
    /// It was aborted.
    Cancelled,
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobInfo {
    /// Whether there is one.
    pub state: JobState,
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Bytes that it has to move in all, as far as known.
    pub data_total_bytes: u64,
    /// Bytes that are done.
    pub data_processed_bytes: u64,
    /// Bytes that are left.
    pub data_remaining_bytes: u64,
}

impl Domain {
    /// The present job.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::Unsupported`] by the test driver.
    pub fn job_info(&self) -> Result<JobInfo, Error> {
        let mut raw = sys::virDomainJobInfo {
            type_: 0,
            timeElapsed: 0,
            timeRemaining: 0,
            dataTotal: 0,
            dataProcessed: 0,
            dataRemaining: 0,
            memTotal: 0,
            memProcessed: 0,
            memRemaining: 0,
            fileTotal: 0,
            fileProcessed: 0,
            fileRemaining: 0,
        };
        // SAFETY: valid pointers; libvirt fills the struct.
        let outcome = unsafe { sys::virDomainGetJobInfo(self.raw(), &raw mut raw) };
        check("virDomainGetJobInfo", outcome)?;
        Ok(JobInfo {
            state: match u32::try_from(raw.type_).unwrap_or(0) {
                sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED => JobState::Active,
                sys::VIR_DOMAIN_JOB_COMPLETED => JobState::Completed,
                sys::VIR_DOMAIN_JOB_FAILED => JobState::Failed,
                sys::VIR_DOMAIN_JOB_CANCELLED => JobState::Cancelled,
                _ => JobState::None,
            },
            elapsed_ms: raw.timeElapsed,
            data_total_bytes: raw.dataTotal,
            data_processed_bytes: raw.dataProcessed,
            data_remaining_bytes: raw.dataRemaining,
        })
    }

    /// Ends the present job; its call then fails.
    ///
    /// # Errors
    ///
    /// [`crate::Kind::InvalidState`] if there is none.
    pub fn abort_job(&self) -> Result<(), Error> {
        // SAFETY: the domain is valid.
        check("virDomainAbortJob", unsafe {
            sys::virDomainAbortJob(self.raw())
        })
        .map(drop)
    }
}
