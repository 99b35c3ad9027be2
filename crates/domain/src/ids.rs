//! Numbers of things within a tenant, one type a kind, so that they cannot be mixed up.
//!
//! The id people see (`GOT-MUS-001`) is rendered from the tenant's code, the kind and this number.

use stagesub_id_gen::Kind;

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(i64);

        impl $name {
            /// The kind these numbers count.
            pub const KIND: Kind = Kind::$kind;

            /// Wraps a number that a counter gave or a parsed id named.
            #[must_use]
            pub const fn new(no: i64) -> Self {
                Self(no)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }
        }
    )*};
}

numbers! {
    /// Number of an instrument.
    InstrumentNo => Instrument;
    /// Number of a position.
    PositionNo => Position;
    /// Number of a ranking list.
    RankingListNo => RankingList;
    /// Number of a musician.
    MusicianNo => Musician;
    /// Number of a project.
    ProjectNo => Project;
}
