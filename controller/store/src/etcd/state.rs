//! The store's fixed values as one transaction finds them, and as one writes them.

use etcd_client::{Compare, CompareOp, TxnOp, TxnOpResponse, TxnResponse};
use kapok_types::{Epoch, Seq};

use super::keys::{self, Fields, KNOWN_FORMAT, Keys, corrupt};
use crate::{Error, Hash, Head, Use};

/// The values that writes compare and change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Format,
    Epoch,
    Head,
    First,
    Begun,
    Checkpoint,
    Staged,
    Settling,
    Use,
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct End {
    pub(super) head: Head,
    /// The bytes of all batches ever appended.
    pub(super) bytes: u64,
}

/// The beginning of what is there of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First {
    pub(super) seq: Seq,
    /// The bytes of all batches before it.
    pub(super) bytes: u64,
}

/// Whose parts are staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Staged {
    pub(super) epoch: Epoch,
    pub(super) generation: u64,
    pub(super) parts: u32,
    /// Of all that was staged for this generation, in order: the count alone doesn't tell a part from
    /// the one that it replaces.
    pub(super) digest: Hash,
}

/// A value to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Epoch(Epoch),
    Head(End),
    First(First),
    Begun(Head),
    Checkpoint(Head),
    Staged(Staged),
    /// The generation that settles, or that none does.
    Settling(Option<u64>),
    Use(Use),
}

/// The values, all of one revision.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The revision that they were read at.
    pub(super) revision: i64,
    /// When each was last changed; 0 for one that is absent.
    changed: [i64; Field::ALL.len()],
    /// Nothing in a place that no store was ever made in.
    pub(super) format: Option<u64>,
    pub(super) epoch: Epoch,
    pub(super) end: End,
    pub(super) first: First,
    pub(super) begun: Option<Head>,
    pub(super) checkpoint: Option<Head>,
    pub(super) staged: Staged,
    pub(super) settling: Option<u64>,
    pub(super) using: Use,
}

impl Field {
    pub(super) const ALL: [Self; 9] = [
        Self::Format,
        Self::Epoch,
        Self::Head,
        Self::First,
        Self::Begun,
        Self::Checkpoint,
        Self::Staged,
        Self::Settling,
        Self::Use,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Epoch => "epoch",
            Self::Head => "head",
            Self::First => "first",
            Self::Begun => "begun",
            Self::Checkpoint => "checkpoint",
            Self::Staged => "staged",
            Self::Settling => "settling",
            Self::Use => "use",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Format => 0,
            Self::Epoch => 1,
            Self::Head => 2,
            Self::First => 3,
            Self::Begun => 4,
            Self::Checkpoint => 5,
            Self::Staged => 6,
            Self::Settling => 7,
            Self::Use => 8,
        }
    }
}

impl Value {
    pub(super) const fn field(self) -> Field {
        match self {
            Self::Epoch(_) => Field::Epoch,
            Self::Head(_) => Field::Head,
            Self::First(_) => Field::First,
            Self::Begun(_) => Field::Begun,
            Self::Checkpoint(_) => Field::Checkpoint,
            Self::Staged(_) => Field::Staged,
            Self::Settling(_) => Field::Settling,
            Self::Use(_) => Field::Use,
        }
    }

    fn encode(self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Epoch(epoch) => epoch.get().to_be_bytes().to_vec(),
            Self::Head(end) => {
                let mut bytes = keys::head_bytes(end.head);
                bytes.extend(end.bytes.to_be_bytes());
                bytes
            }
            Self::First(First { seq, bytes }) => {
                [seq.get().to_be_bytes(), bytes.to_be_bytes()].concat()
            }
            Self::Begun(at) | Self::Checkpoint(at) => keys::head_bytes(at),
            Self::Staged(staged) => {
                let mut bytes = staged.epoch.get().to_be_bytes().to_vec();
                bytes.extend(staged.generation.to_be_bytes());
                bytes.extend(staged.parts.to_be_bytes());
                bytes.extend(staged.digest.0);
                bytes
            }
            Self::Settling(Some(generation)) => generation.to_be_bytes().to_vec(),
            Self::Settling(None) => return None,
            Self::Use(using) => using.encode().to_vec(),
        })
    }

    /// The operation that writes it.
    pub(super) fn write(self, keys: &Keys) -> TxnOp {
        let key = keys.of(self.field().name());
        match self.encode() {
            Some(value) => TxnOp::put(key, value, None),
            None => TxnOp::delete(key, None),
        }
    }
}

/// The comparison that every write makes: this epoch is still the one in force.
pub(super) fn in_force(keys: &Keys, epoch: Epoch) -> Compare {
    let value = epoch.get().to_be_bytes();
    Compare::value(keys.of(Field::Epoch.name()), CompareOp::Equal, value)
}

/// What makes a store where nothing is.
pub(super) fn blank(keys: &Keys) -> Vec<TxnOp> {
    let format = u64::from(KNOWN_FORMAT).to_be_bytes();
    let first = First {
        seq: Seq(1),
        bytes: 0,
    };
    vec![
        TxnOp::put(keys.of(Field::Format.name()), format, None),
        Value::Epoch(Epoch(0)).write(keys),
        Value::Head(End::default()).write(keys),
        Value::First(first).write(keys),
    ]
}

impl State {
    /// The reads that [`State::found`] wants the answers of.
    pub(super) fn gets(keys: &Keys) -> Vec<TxnOp> {
        let get = |field: Field| TxnOp::get(keys.of(field.name()), None);
        Field::ALL.map(get).into()
    }

    /// The answers to [`State::gets`], in a transaction of nothing else.
    pub(super) fn found(answer: &TxnResponse) -> Result<Self, Error> {
        let revision = revision(answer)?;
        let mut values: [Option<Vec<u8>>; Field::ALL.len()] = Default::default();
        let mut changed = [0; Field::ALL.len()];
        let answers = answer.op_responses();
        if answers.len() != Field::ALL.len() {
            return Err(corrupt("etcd answers another question"));
        }
        for (index, answer) in answers.into_iter().enumerate() {
            let TxnOpResponse::Get(mut got) = answer else {
                return Err(corrupt("etcd answers another question"));
            };
            if let Some(pair) = got.take_kvs().pop() {
                changed[index] = pair.mod_revision();
                values[index] = Some(pair.into_key_value().1);
            }
        }
        let of = |field: Field| {
            let value = values[field.index()].as_deref();
            value.map(|value| Fields::of(field.name(), value))
        };
        let format = of(Field::Format).map(|mut fields| fields.number());
        let Some(format) = format.transpose()? else {
            if changed.iter().any(|&revision| revision != 0) {
                return Err(corrupt("it has no format"));
            }
            return Ok(Self::nothing(revision));
        };
        if format > u64::from(KNOWN_FORMAT) {
            return Err(Error::Newer {
                found: u32::try_from(format).unwrap_or(u32::MAX),
                known: KNOWN_FORMAT,
            });
        }
        let needed =
            |field: Field| of(field).ok_or_else(|| corrupt(format!("no {}", field.name())));
        let mut epoch = needed(Field::Epoch)?;
        let mut head = needed(Field::Head)?;
        let mut first = needed(Field::First)?;
        let position = |field: Field| {
            let read = of(field).map(|mut fields| {
                let head = fields.head()?;
                fields.end().map(|()| head)
            });
            read.transpose()
        };
        let staged = of(Field::Staged).map(|mut fields| {
            Ok::<_, Error>(Staged {
                epoch: Epoch(fields.number()?),
                generation: fields.number()?,
                parts: fields.small()?,
                digest: fields.hash_or_zero()?,
            })
        });
        let settling = of(Field::Settling).map(|mut fields| fields.number());
        let using = of(Field::Use).map(|fields| {
            let using = Use::decode(fields.rest());
            using.ok_or_else(|| corrupt("bad use"))
        });
        let state = Self {
            revision,
            changed,
            format: Some(format),
            epoch: Epoch(epoch.number()?),
            end: End {
                head: head.head()?,
                bytes: head.number()?,
            },
            first: First {
                seq: Seq(first.number()?),
                bytes: first.number()?,
            },
            begun: position(Field::Begun)?,
            checkpoint: position(Field::Checkpoint)?,
            staged: staged.transpose()?.unwrap_or_default(),
            settling: settling.transpose()?,
            using: using.transpose()?.unwrap_or_default(),
        };
        for fields in [epoch, head, first] {
            fields.end()?;
        }
        Ok(state)
    }

    fn nothing(revision: i64) -> Self {
        Self {
            revision,
            changed: [0; Field::ALL.len()],
            format: None,
            epoch: Epoch(0),
            end: End::default(),
            first: First {
                seq: Seq(1),
                bytes: 0,
            },
            begun: None,
            checkpoint: None,
            staged: Staged::default(),
            settling: None,
            using: Use::Open,
        }
    }

    /// How many parts the leadership of `epoch` has staged.
    pub(super) fn staged_by(&self, epoch: Epoch) -> u32 {
        if self.staged.epoch == epoch {
            self.staged.parts
        } else {
            0
        }
    }

    /// The comparison that `field` is still as it is here.
    pub(super) fn unchanged(&self, keys: &Keys, field: Field) -> Compare {
        let changed = self.changed[field.index()];
        Compare::mod_revision(keys.of(field.name()), CompareOp::Equal, changed)
    }

    /// Whether the write of all of `values` that was planned on `planned` has landed: each is there, and
    /// was not when it was planned.
    pub(super) fn shows(&self, values: &[Value], planned: &Self) -> bool {
        !values.is_empty()
            && values.iter().all(|value| {
                let index = value.field().index();
                self.value(value.field()) == Some(*value)
                    && self.changed[index] > planned.changed[index]
            })
    }

    fn value(&self, field: Field) -> Option<Value> {
        Some(match field {
            Field::Format => return None,
            Field::Epoch => Value::Epoch(self.epoch),
            Field::Head => Value::Head(self.end),
            Field::First => Value::First(self.first),
            Field::Begun => Value::Begun(self.begun?),
            Field::Checkpoint => Value::Checkpoint(self.checkpoint?),
            Field::Staged => Value::Staged(self.staged),
            Field::Settling => Value::Settling(self.settling),
            Field::Use => Value::Use(self.using),
        })
    }

    /// Takes over that `value` was written at `revision`.
    pub(super) fn write(&mut self, value: Value, revision: i64) {
        let changed = &mut self.changed[value.field().index()];
        if *changed > revision {
            return;
        }
        // What was deleted has never been changed, as comparisons see it.
        *changed = if value == Value::Settling(None) {
            0
        } else {
            revision
        };
        match value {
            Value::Epoch(epoch) => self.epoch = epoch,
            Value::Head(end) => self.end = end,
            Value::First(first) => self.first = first,
            Value::Begun(at) => self.begun = Some(at),
            Value::Checkpoint(at) => self.checkpoint = Some(at),
            Value::Staged(staged) => self.staged = staged,
            Value::Settling(settling) => self.settling = settling,
            Value::Use(using) => self.using = using,
        }
    }
}

/// The revision that an answer is of.
pub(super) fn revision(answer: &TxnResponse) -> Result<i64, Error> {
    let header = answer.header();
    header.map_or_else(
        || Err(corrupt("etcd answers without a revision")),
        |header| Ok(header.revision()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that was staged before shows neither another one in its place nor itself once more.
    #[test]
    fn what_was_there_before_shows_nothing() {
        let staged = |part: &[u8]| {
            Value::Staged(Staged {
                epoch: Epoch(1),
                generation: 0,
                parts: 1,
                digest: Hash::link(Hash::ZERO, Seq(0), part),
            })
        };
        // What a full read found is older than what was written since.
        let read = State::nothing(50);
        let mut planned = read.clone();
        planned.write(staged(b"1"), 100);
        assert!(planned.shows(&[staged(b"1")], &read));
        assert!(!planned.shows(&[staged(b"1")], &planned));
        // The first one's attempt that was given up lands late.
        let mut late = planned.clone();
        late.write(staged(b"1"), 110);
        assert!(!late.shows(&[staged(b"2")], &planned));
    }
}
