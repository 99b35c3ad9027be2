//! What an older owner left: its sessions end before anything is done, and where a database is out of reach, what can be
//! done without it.

use std::sync::atomic::Ordering;

use tokio::time::timeout;

use super::{Drive, Halt, chain};
use crate::moves::failpoint::Point;
use crate::moves::record::Note;
use crate::moves::state::{MoveState, Request, Side};

impl Drive<'_> {
    /// What an older owner left, before anything is done: nobody but this mover works on the move after this, and the
    /// row says what the directory says.
    pub(super) async fn recover(&mut self) -> Result<(), Halt> {
        let severed = self.sever().await;
        if severed.is_ok() {
            self.reach(Point::Severed).await;
        }
        let end = match &severed {
            Ok(()) => None,
            Err(_) => self.end_without_other().await,
        };
        match self.state() {
            MoveState::Fence | MoveState::Back => {
                self.settle_cutover("its mover did not finish it", true).await?;
                return severed;
            }
            MoveState::Copy if severed.is_ok() => {
                return self.advance(MoveState::Slot, Note::default()).await;
            }
            MoveState::Decided => {}
            _ if severed.is_err() && end.is_none() => return severed,
            _ => {}
        }
        let found = self.located().await?;
        if found != Some(self.held.moved.located()) {
            return Err(self.inconsistent(found));
        }
        let Err(away) = severed else { return Ok(()) };
        match end {
            Some((end, _)) if end == self.state() => Ok(()),
            Some((MoveState::Aborted, why)) => self.abort(&why).await,
            Some((end, _)) => self.advance(end, Note::default()).await,
            None => {
                self.forward(None).await?;
                Err(away)
            }
        }
    }

    /// Ends the sessions of an older owner, at both sides. A tenant that waits does not wait for a database that is out of
    /// reach: what opens it is conditional on its epoch, so an older owner's sessions can undo nothing of it. But nothing
    /// else is done at a side before they have ended there.
    pub(super) async fn sever(&mut self) -> Result<(), Halt> {
        let settings = &self.mover.settings;
        let is_awaited = self.grip.is_cutover.load(Ordering::Relaxed);
        let within = if is_awaited { settings.hurry } else { settings.step };
        let (plane, moved) = (&self.mover.plane, &self.held.moved);
        let end = |side: Side| async move {
            let why = match timeout(within, plane.sever(moved, side)).await {
                Ok(Ok(())) => return None,
                Ok(Err(error)) => chain(&error),
                Err(_) => "it did not answer in time".to_owned(),
            };
            Some(format!("ending older sessions at the {side}: {why}"))
        };
        self.away = tokio::join!(end(Side::Source), end(Side::Target));
        let why = self.away.0.as_ref().or(self.away.1.as_ref());
        why.map_or(Ok(()), |why| Err(Halt::Later(why.clone())))
    }

    /// Why a side is out of reach, if it was when the move was taken up.
    pub(super) const fn away(&self, side: Side) -> Option<&String> {
        match side {
            Side::Source => self.away.0.as_ref(),
            Side::Target => self.away.1.as_ref(),
        }
    }

    /// The end that the move comes to while the side that does not serve may be out of reach, for ever perhaps, and why: it
    /// has come there, it was never begun, somebody asks for it, or the source cannot wait any longer. What is left at that
    /// side is removed when it is back.
    async fn end_without_other(&self) -> Option<(MoveState, String)> {
        let asked_for = || "it was asked for".to_owned();
        let state = self.state();
        // Nothing was made, and who asked for the move is told now and not whenever that database is back.
        if state == MoveState::Prepare
            && self.held.moved.attempts == 0
            && let Some(why) = self.away.0.as_ref().or(self.away.1.as_ref())
        {
            return Some((MoveState::Aborted, why.clone()));
        }
        if self.away(self.held.moved.serving()).is_some() {
            return None;
        }
        if state.is_over() {
            Some((state, asked_for()))
        } else if state.may_abort() && self.wants(Request::Abort) {
            Some((MoveState::Aborted, asked_for()))
        } else if state == MoveState::Active && self.wants(Request::Finish) {
            Some((MoveState::Finished, asked_for()))
        } else if state.may_abort() && !state.is_cutover() {
            let looked = self.mover.plane.bearable(&self.held.moved);
            match self.timed("looking at what the source keeps", looked).await {
                Err(Halt::Refused(why)) => Some((MoveState::Aborted, why)),
                // It is asked again by whoever takes the move up next.
                _ => None,
            }
        } else {
            None
        }
    }
}
