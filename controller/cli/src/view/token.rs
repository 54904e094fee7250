//! Tokens, without and once with their secret.

use kapok_proto::fabric::v1 as wire;
use kapok_types::Timestamp;
use serde::Serialize;

use super::{Time, View, age, left, time, yes_no};
use crate::{
    human::{or_dash, plain},
    output::pairs,
};

/// A token without its secret.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) subject: String,
    pub(crate) one_use: bool,
    use_time: Option<Time>,
    pub(crate) expire_time: Option<Time>,
    create_time: Option<Time>,
    created_by: String,
}

/// A new token with its text. Deliberately without `Debug`.
#[derive(Serialize)]
pub(crate) struct NewToken {
    #[serde(flatten)]
    pub(crate) token: Token,
    pub(crate) text: String,
}

impl From<wire::Token> for Token {
    fn from(token: wire::Token) -> Self {
        Self {
            id: token.id,
            subject: token.subject,
            one_use: token.one_use,
            use_time: time(token.use_time),
            expire_time: time(token.expire_time),
            create_time: time(token.create_time),
            created_by: token.created_by,
        }
    }
}

impl View for Token {
    fn columns(wide: bool) -> Vec<&'static str> {
        let mut columns = vec!["ID", "FOR", "ONE USE", "USED", "ENDS IN"];
        if wide {
            columns.extend(["AGE", "BY"]);
        }
        columns
    }

    fn row(&self, now: Timestamp, wide: bool) -> Vec<String> {
        let mut row = vec![
            plain(&self.id),
            plain(&self.subject),
            yes_no(self.one_use),
            age(self.use_time, now),
            left(self.expire_time, now),
        ];
        if wide {
            row.extend([age(self.create_time, now), or_dash(&self.created_by)]);
        }
        row
    }

    fn details(&self, now: Timestamp) -> String {
        pairs(&[
            ("ID", plain(&self.id)),
            ("For", plain(&self.subject)),
            ("One use", yes_no(self.one_use)),
            ("Ends in", left(self.expire_time, now)),
            ("By", or_dash(&self.created_by)),
        ])
    }
}
