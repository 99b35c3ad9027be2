//! What was prepared on a connection.

/// Statements that were prepared on a connection. What is prepared outlives every transaction.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    known: Vec<Named>,
    /// The one that was sent to be prepared and has not been seen answered.
    doubtful: Option<Doubtful>,
}

/// A statement of which it is not known whether it is prepared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Doubtful {
    /// By its name, with `PREPARE`.
    ByName(Named),
    /// By the driver, which has names of its own.
    ByDriver(Named),
}

/// A name, and the text that it stands for: of two texts by one name the second is not taken for the first.
pub(crate) type Named = (&'static str, &'static str);

impl Prepared {
    /// Whether the next message has to prepare it; it is doubtful from then on.
    pub(crate) fn will_have(&mut self, statement: Named) -> bool {
        let wanting = !self.known.contains(&statement);
        if wanting {
            self.doubtful = Some(Doubtful::ByName(statement));
        }
        wanting
    }

    /// The driver prepares it with the next message, unless it is known; it is doubtful from then on.
    pub(crate) fn driver_will_have(&mut self, statement: Named) {
        if !self.known.contains(&statement) {
            self.doubtful = Some(Doubtful::ByDriver(statement));
        }
    }

    /// The one of which it is not known whether it is there.
    pub(crate) fn doubtful(&self) -> Option<Doubtful> {
        self.doubtful
    }

    /// Nothing is there by this name.
    pub(crate) fn is_gone(&mut self, name: &str) {
        self.known.retain(|(known, _)| *known != name);
        self.doubtful = None;
    }

    /// The driver has seen whether what was doubtful is there.
    pub(crate) fn answered(&mut self) {
        self.doubtful = None;
    }

    /// What was doubtful was seen to be there.
    pub(crate) fn has(&mut self) {
        self.known
            .extend(self.doubtful.take().map(|(Doubtful::ByName(known) | Doubtful::ByDriver(known))| known));
    }
}
