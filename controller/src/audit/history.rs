//! The whole log behind one door, whatever store it lies in.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use kapok_store::{
    Archive, Error, Follow, Segment, Store,
    verify::{self, Expected, Report},
};
use kapok_types::Seq;

/// What readers of the log need.
#[async_trait]
pub trait History: fmt::Debug + Send + Sync + 'static {
    /// Every batch from a position on; see [`Archive::follow`].
    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>>;

    /// Checks everything; see [`verify::archive`].
    async fn check(&self, recorded: &[Segment], expected: Vec<Expected>) -> Result<Report, Error>;
}

#[async_trait]
impl<S: Store> History for Archive<S> {
    fn follow(&self, from: Seq) -> BoxStream<'static, Result<Follow, Error>> {
        Self::follow(self, from)
    }

    async fn check(&self, recorded: &[Segment], expected: Vec<Expected>) -> Result<Report, Error> {
        verify::archive(self, recorded, expected).await
    }
}
