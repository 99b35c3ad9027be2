//! What is asked for: where to, how, how fast.

use std::num::NonZeroU32;

use super::{
    DatabaseId, DedicatedPlace, Located, MoveId, MovePath, MovePrefix, Moving, NewTarget, Placement, Refusal,
    Rule, TenantAccount, Tier, UseCaseError, ValidationErrors, plane_error, refused,
};

/// Most rows that an orchestra may have for everything to happen inside the fence, where it waits for all of it: some
/// 100 ms.
pub const SHORT_ROWS: u64 = 5_000;

/// Where an orchestra is to be.
#[derive(Debug, Clone)]
pub enum Destination {
    /// In a database of its own; where that is to be made, if there is none.
    Own(DedicatedPlace),
    /// In this shared database, or in the other one with the fewest orchestras.
    Shared(Option<DatabaseId>),
}

impl Destination {
    /// The same, if the orchestra may be there and is not.
    pub(super) fn checked(&self, account: &TenantAccount, source: Located) -> Result<&Self, UseCaseError> {
        match (self, source.placement) {
            (Self::Own(_), _) if account.tier != Tier::Institution => Err(ValidationErrors::one(
                "to",
                Rule::Subscription.as_str(),
                format!(
                    "a database of its own comes with the institution tier, and this orchestra has {}",
                    account.tier.as_str()
                ),
            )
            .into()),
            (Self::Own(_), Placement::Dedicated(_)) => Err(refused(Refusal::AlreadyThere)),
            _ => Ok(self),
        }
    }
}

/// How fast rows may be copied and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// So fast that the neighbours notice little: [`Pace::USUAL`].
    #[default]
    Usual,
    /// As fast as it goes.
    Unpaced,
    /// So many bytes a second.
    Bytes(NonZeroU32),
}

impl Pace {
    /// Bytes a second that are copied, or compared, where nothing else was said.
    pub const USUAL: NonZeroU32 = NonZeroU32::new(5_000_000).expect("it is more than none");

    /// Bytes a second; `None`: no bound.
    #[must_use]
    pub const fn bytes(self) -> Option<NonZeroU32> {
        match self {
            Self::Usual => Some(Self::USUAL),
            Self::Unpaced => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// A move that somebody wants.
#[derive(Debug, Clone)]
pub struct MoveDraft {
    /// Where to.
    pub to: Destination,
    /// How; `None`: as fits the orchestra's size and what the servers can do.
    pub path: Option<MovePath>,
    /// How fast.
    pub pace: Pace,
}

/// What a move needs that is random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fresh {
    /// Its id.
    pub id: MoveId,
    /// Its prefix.
    pub prefix: MovePrefix,
}

/// The short path for a small orchestra; else the stream, where both servers decode their logs; else triggers.
pub(super) async fn choose_path(
    moving: &Moving<'_>,
    draft: &MoveDraft,
    source: &Located,
    target: Option<Placement>,
) -> Result<MovePath, UseCaseError> {
    if let Some(path @ (MovePath::Stream | MovePath::Triggers)) = draft.path {
        return Ok(path);
    }
    let (tenant, placement) = (source.tenant, source.placement);
    let rows = moving.surveyor.rows(tenant, placement, SHORT_ROWS).await.map_err(plane_error)?;
    if rows <= SHORT_ROWS {
        return Ok(MovePath::Short);
    }
    if draft.path == Some(MovePath::Short) {
        return Err(ValidationErrors::one(
            "path",
            Rule::Range.as_str(),
            format!(
                "everything would wait while its rows are copied, and they are more than {SHORT_ROWS}, or as much; \
                 leave the path out, or say stream"
            ),
        )
        .into());
    }
    for side in std::iter::once(placement).chain(target) {
        if !moving.surveyor.decodes(tenant, side).await.map_err(plane_error)? {
            return Ok(MovePath::Triggers);
        }
    }
    Ok(MovePath::Stream)
}

/// The same to a database that is to be made.
pub(super) async fn choose_path_to_new(
    moving: &Moving<'_>,
    draft: &MoveDraft,
    source: &Located,
    new: &NewTarget,
) -> Result<MovePath, UseCaseError> {
    Ok(match choose_path(moving, draft, source, None).await? {
        MovePath::Stream if draft.path.is_none() && !new.decodes => MovePath::Triggers,
        path => path,
    })
}
