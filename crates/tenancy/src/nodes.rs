//! How many nodes there are, and each one's part of what they share.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
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

/// Numbers of connections, of one node or of several together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// To each shared database.
    pub shared: u32,
    /// To dedicated databases, together.
    pub dedicated: u32,
}

impl Uses {
    fn each(self, other: Self, with: impl Fn(u32, u32) -> u32) -> Self {
        Self { shared: with(self.shared, other.shared), dedicated: with(self.dedicated, other.dedicated) }
    }
}

/// What one node is told of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Others {
    /// How many live.
    pub nodes: u32,
    /// What they may be using, together.
    pub uses: Uses,
}

/// Where nodes say that they live.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait NodeRegistry: Send + Sync {
    /// Says that `node` lives and may be using so many connections; then, after that can be read by everybody,
    /// tells of the other nodes that said so within `lease`. One clock decides for all of them.
    async fn beat(&self, node: NodeId, lease: Duration, uses: Uses) -> Result<Others, DirectoryError>;

    /// How many nodes said within `lease` that they live, asked by one that does not.
    async fn count(&self, lease: Duration) -> Result<u32, DirectoryError>;

    /// Says that `node` ends, so that the others need not wait for its lease.
    async fn leave(&self, node: NodeId) -> Result<(), DirectoryError>;
}

/// How the nodes share: what there is, and what one of them can work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// What all nodes may use together.
    pub total: Uses,
    /// What a node uses at least, whatever the others do.
    pub least: Uses,
    /// What a node has a use for.
    pub most: Uses,
}

impl Sharing {
    /// One node's part: the same for each, at least [`Sharing::least`] and at most [`Sharing::most`]. What is
    /// divided leaves the least of one node over, for the next that comes. With so many nodes that the least is
    /// more than a part, they have more than the total together.
    #[must_use]
    pub fn part(&self, nodes: NonZeroU32) -> Uses {
        let part = self.divided().each(self.most, |total, most| (total / nodes).min(most));
        part.each(self.least, u32::max)
    }

    fn divided(&self) -> Uses {
        self.total.each(self.least, u32::saturating_sub)
    }

    /// What the others leave.
    fn left_by(&self, others: Others) -> Uses {
        self.divided().each(others.uses, u32::saturating_sub)
    }
}

/// One node among the others. It takes more only when the others use so little that all fit in, and gives up what
/// it has beyond its part at once: so the sum stays within the total while nodes come and go, but for two that come
/// at the same time, each with its least.
pub struct Membership {
    registry: Arc<dyn NodeRegistry>,
    node: NodeId,
    lease: Duration,
    sharing: Sharing,
    /// What it may be using.
    uses: Uses,
    /// What it is to use.
    granted: Uses,
}

/// What one beat brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The nodes that live, this one included.
    pub nodes: NonZeroU32,
    /// What this node may use from now on.
    pub uses: Uses,
    /// Whether that is its whole part. It is less while others have not yet left it the rest.
    pub is_whole: bool,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("node", &self.node)
            .field("uses", &self.uses)
            .field("granted", &self.granted)
            .finish_non_exhaustive()
    }
}

impl Membership {
    /// A node that nobody has heard of yet. It may use [`Sharing::least`].
    #[must_use]
    pub fn new(registry: Arc<dyn NodeRegistry>, node: NodeId, lease: Duration, sharing: Sharing) -> Self {
        Self { registry, node, lease, sharing, uses: sharing.least, granted: sharing.least }
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// What it may use now.
    #[must_use]
    pub const fn granted(&self) -> Uses {
        self.granted
    }

    /// Says that the node lives, and finds out what it may use. What it may not use any more it has until
    /// [`Membership::settle`] says otherwise.
    ///
    /// # Errors
    /// [`DirectoryError`]: the registry was not reached, and what the node may use stays what it was.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing for this node. The others may believe for a beat that it uses more.
    pub async fn beat(&mut self) -> Result<Beat, DirectoryError> {
        let others = self.registry.beat(self.node, self.lease, self.uses).await?;
        let nodes = NonZeroU32::MIN.saturating_add(others.nodes);
        let part = self.sharing.part(nodes);
        let fits = part.each(self.sharing.left_by(others), u32::min);
        // Less than it uses is to be given up; what it uses already it need not ask for.
        let wanted = fits.each(self.uses, u32::max).each(part, u32::min).each(self.sharing.least, u32::max);
        let said = self.uses.each(wanted, u32::max);
        if said == self.uses {
            self.granted = wanted;
        } else {
            // Said first and looked at after: of two that want the same, one at least sees the other.
            let others = self.registry.beat(self.node, self.lease, said).await?;
            let left = self.sharing.left_by(others);
            let grown =
                |wanted: u32, uses: u32, left: u32| if wanted > uses.max(left) { uses } else { wanted };
            self.granted = Uses {
                shared: grown(wanted.shared, self.uses.shared, left.shared),
                dedicated: grown(wanted.dedicated, self.uses.dedicated, left.dedicated),
            };
            let uses = self.uses.each(self.granted, u32::max);
            if uses != said {
                self.registry.beat(self.node, self.lease, uses).await?;
            }
            self.uses = uses;
        }
        Ok(Beat { nodes, uses: self.granted, is_whole: self.granted == part })
    }

    /// Tells the others what the node uses still, once it has given up what it could: `in_use`, or what it may
    /// use if that is more.
    ///
    /// # Errors
    /// [`DirectoryError`]: the others believe that it uses more, until a later beat.
    ///
    /// # Cancel safety
    /// As [`Membership::beat`].
    pub async fn settle(&mut self, in_use: Uses) -> Result<(), DirectoryError> {
        let uses = self.granted.each(in_use, u32::max).each(self.uses, u32::min);
        if uses != self.uses {
            self.registry.beat(self.node, self.lease, uses).await?;
            self.uses = uses;
        }
        Ok(())
    }

    /// Says that the node ends.
    ///
    /// # Errors
    /// [`DirectoryError`]: the others wait for its lease.
    pub async fn leave(&self) -> Result<(), DirectoryError> {
        self.registry.leave(self.node).await
    }
}

#[cfg(test)]
mod tests;
