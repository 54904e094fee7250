//! Pages of a list, and the tokens that lead from one to the next.
//!
//! A token is the last key that was shown and the question that it was shown for: nothing is
//! kept between pages, and what is added or removed meanwhile neither repeats nor hides another.

use std::{fmt::Write as _, ops::Bound, sync::LazyLock};

use imbl::OrdMap;
use kapok_types::Name;
use prost::Message;
use tonic::Status;

use super::{
    Api,
    caller::{Caller, absent, parsed},
    status,
};
use crate::{
    authz::{Action, about},
    fabric::Fabric,
};

/// Items of a page unless told otherwise, and at most.
const DEFAULT_ITEMS: usize = 100;
const MAX_ITEMS: usize = 1000;
/// Where a page ends early, in bytes: a message must stay below its limit.
const MAX_BYTES: usize = kapok_proto::MAX_MESSAGE_BYTES - 512 * 1024;

/// The first of all names.
static FIRST: LazyLock<Name> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "a constant that is a name")]
    "0".parse().expect("\"0\" is a name")
});

/// One page that is asked for.
#[derive(Debug)]
pub(super) struct Page {
    question: String,
    size: usize,
    /// The key that the page before ended with.
    pub(super) after: Option<String>,
}

impl Page {
    /// Reads what a caller asks for. `question` names the list and its filters: a token is good
    /// for that question only.
    pub(super) fn new(question: String, size: u32, token: &str) -> Result<Self, Status> {
        let size = match usize::try_from(size) {
            Ok(0) => DEFAULT_ITEMS,
            Ok(size) => size.min(MAX_ITEMS),
            Err(_) => MAX_ITEMS,
        };
        let after = match token {
            "" => None,
            token => Some(
                unhex(token)
                    .and_then(|text| {
                        text.strip_prefix(&question)?
                            .strip_prefix('\n')
                            .map(str::to_owned)
                    })
                    .ok_or_else(|| {
                        status::bad_field(
                            "page_token",
                            "is no token of an earlier answer to the same question",
                        )
                    })?,
            ),
        };
        Ok(Self {
            question,
            size,
            after,
        })
    }

    /// How many items it shows at most.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// A token that leads on behind a key, for a page that ends before the list does.
    pub(super) fn token(&self, key: &str) -> String {
        hex(&format!("{}\n{key}", self.question))
    }

    /// The page's items and the next token, from what follows [`Page::after`]. Takes no more of
    /// `items` than it shows, and one.
    pub(super) fn take<T: Message>(
        &self,
        items: impl Iterator<Item = (String, T)>,
    ) -> (Vec<T>, String) {
        let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
        for (key, item) in items {
            bytes += item.encoded_len() + 8;
            if page.len() == self.size || (bytes > MAX_BYTES && !page.is_empty()) {
                let token = last.map(|last: String| self.token(&last));
                return (page, token.unwrap_or_default());
            }
            page.push(item);
            last = Some(key);
        }
        (page, String::new())
    }
}

impl Api {
    /// What is called by tenant and name, in that order, after a place and in the tenants whose
    /// list the caller may see: those below one, or all.
    ///
    /// A tenant is asked about when its turn comes: a page costs what it shows.
    pub(super) fn places<'f, T: Clone>(
        &'f self,
        fabric: &'f Fabric,
        caller: &'f Caller,
        list: Action,
        below: Option<&'f Name>,
        names: &'f OrdMap<(Name, Name), T>,
        after: Option<&str>,
    ) -> Result<impl Iterator<Item = (&'f (Name, Name), &'f T)> + use<'f, T>, Status> {
        if let Some(below) = below {
            let which = below.as_str();
            if !fabric.tenants.contains_key(below) {
                return Err(absent("tenant", which));
            }
            self.authorize(caller, list, &about::tenant(below), which)?;
        }
        let after = after.map(whence).transpose()?;
        let first = match &after {
            Some((tenant, _)) => Bound::Included(tenant.clone()),
            None => Bound::Unbounded,
        };
        let tenants = fabric
            .tenants
            .range((first, Bound::Unbounded))
            .map(|(tenant, _)| tenant)
            .filter(move |tenant| {
                let inside = below.is_none_or(|below| fabric.upwards(tenant).any(|up| up == below));
                inside && self.may(caller, list, &about::tenant(tenant))
            });
        Ok(tenants.flat_map(move |tenant| {
            let from = match &after {
                Some(after) if after.0 == *tenant => Bound::Excluded(after.clone()),
                _ => Bound::Included((tenant.clone(), FIRST.clone())),
            };
            names
                .range((from, Bound::Unbounded))
                .take_while(move |((of, _), _)| of == tenant)
        }))
    }
}

/// Where something stands in such a list.
pub(super) fn place((tenant, name): &(Name, Name)) -> String {
    format!("{tenant}/{name}")
}

fn whence(place: &str) -> Result<(Name, Name), Status> {
    let (tenant, name) = place.split_once('/').unwrap_or_default();
    Ok((parsed("page_token", tenant)?, parsed("page_token", name)?))
}

fn hex(text: &str) -> String {
    text.bytes()
        .fold(String::with_capacity(text.len() * 2), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
}

fn unhex(text: &str) -> Option<String> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    let bytes = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use kapok_proto::fabric::v1::Image;

    use super::*;

    fn names(page: &Page, all: &[&str], name_bytes: usize) -> (Vec<String>, String) {
        let rest = all
            .iter()
            .filter(|name| page.after.as_deref().is_none_or(|last| **name > last));
        let items = rest.map(|name| {
            let created_by = "x".repeat(name_bytes);
            (
                (*name).to_owned(),
                Image {
                    name: (*name).to_owned(),
                    created_by,
                    ..Image::default()
                },
            )
        });
        let (items, token) = page.take(items);
        (items.into_iter().map(|item| item.name).collect(), token)
    }

    #[test]
    fn pages_follow_each_other_to_the_end() {
        let all = ["a", "b", "c"];
        let first = Page::new("images".into(), 2, "").unwrap();
        let (shown, token) = names(&first, &all, 0);
        assert_eq!(shown, ["a", "b"]);
        let second = Page::new("images".into(), 2, &token).unwrap();
        assert_eq!(
            names(&second, &all, 0),
            (vec!["c".to_owned()], String::new())
        );
        let whole = Page::new("images".into(), 3, "").unwrap();
        assert_eq!(names(&whole, &all, 0).1, "");
    }

    #[test]
    fn a_page_stays_below_the_message_limit() {
        let page = Page::new("images".into(), 1000, "").unwrap();
        let (shown, token) = names(&page, &["a", "b", "c"], 2 * 1024 * 1024);
        assert_eq!((shown.len(), token.is_empty()), (1, false));
        let huge = Page::new("images".into(), u32::MAX, "").unwrap();
        assert_eq!(
            (huge.size, Page::new(String::new(), 0, "").unwrap().size),
            (1000, 100)
        );
    }

    #[test]
    fn a_foreign_token_is_refused() {
        let (_, token) = names(&Page::new("images".into(), 1, "").unwrap(), &["a", "b"], 0);
        for (question, token) in [
            ("nodes", &*token),
            ("images", "x"),
            ("images", "ff"),
            ("images", "城"),
            ("image", &token),
        ] {
            let refused = Page::new(question.into(), 1, token).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{token}");
            assert!(refused.message().starts_with("page_token: "));
        }
    }
}
