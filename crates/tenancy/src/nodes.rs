//! How many nodes there are, and each one's part of what they share.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::directory::DirectoryError;

/// One run of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId(Uuid);

impl NodeId {
    /// From a UUID that no other run has.
    #[must_use]
    pub const fn from_uuid(id: Uuid) -> Self {
        Self(id)
    }

    /// The UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where nodes say that they live.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait NodeRegistry: Send + Sync {
    /// Says that `node` lives, and counts the nodes that said so within `lease`, this one included. One clock
    /// decides for all of them.
    async fn beat(&self, node: NodeId, lease: Duration) -> Result<NonZeroU32, DirectoryError>;

    /// Says that `node` ends, so that the others need not wait for its lease.
    async fn leave(&self, node: NodeId) -> Result<(), DirectoryError>;
}

/// One node's part of `total`: the same for each, at least `least` and at most `most`. With so many nodes
/// that `least` is more than a part, they have more than `total` together.
#[must_use]
pub fn part_of(total: u32, nodes: NonZeroU32, least: u32, most: u32) -> u32 {
    (total / nodes).min(most).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_add_up_to_no_more_than_there_is() {
        for (nodes, part) in [(1, 10), (4, 10), (5, 10), (6, 8), (7, 7), (25, 2), (1_000, 2)] {
            let nodes = NonZeroU32::new(nodes).expect("not zero");
            assert_eq!(part_of(50, nodes, 2, 10), part, "{nodes} nodes");
            assert!(part == 2 || part * nodes.get() <= 50);
        }
    }
}
