//! Settling: what became of the messages that have landed is written down, and their keys are let go.

use std::time::Instant;

use super::lane::{DisplayChain, Lane};
use crate::dialect::{Dialect, Settlement};
use crate::error::Error;

impl<D: Dialect> Lane<D> {
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        if self.landed.is_empty() {
            self.let_go();
            return Ok(());
        }
        let keep = self.shared.keep;
        let landed = std::mem::take(&mut self.landed);
        let settled = match self.connection().await {
            Ok(connection) => D::settle(connection, &landed, keep).await,
            Err(error) => Err(error),
        };
        let Err(error) = settled else {
            self.refused_since = None;
            self.let_go();
            return Ok(());
        };
        self.landed = landed;
        if !is_refusal(&error) {
            // Perhaps it happened: then it is not for us any more, and doing it again does nothing.
            return Err(error);
        }
        self.settle_each().await
    }

    /// One settlement that the database does not take must not keep the others from being settled. It is dropped if it is
    /// at fault itself: its values are, or others are taken. Where none is, as with a database that cannot be written for
    /// a while, all are kept until their leases are over.
    async fn settle_each(&mut self) -> Result<(), Error> {
        let mut is_writable = false;
        loop {
            let (settled, refusal) = self.settle_singly().await?;
            if settled > 0 {
                (is_writable, self.refused_since) = (true, None);
            }
            let Some(refusal) = refusal else { break };
            if settled > 0 {
                // Perhaps it could not be written a moment ago.
                continue;
            }
            let since = *self.refused_since.get_or_insert_with(Instant::now);
            if !is_writable && since.elapsed() < self.shared.settings.lease {
                return Err(refusal);
            }
            for settlement in self.landed.drain(..) {
                drop_refused(&settlement, &refusal);
            }
            break;
        }
        self.let_go();
        Ok(())
    }

    /// Settles one after the other; returns how many, and why some are left that may be taken later.
    async fn settle_singly(&mut self) -> Result<(u32, Option<Error>), Error> {
        let (mut settled, mut refused, mut refusal) = (0, Vec::new(), None);
        let keep = self.shared.keep;
        while let Some(settlement) = self.landed.pop() {
            let result = match self.connection().await {
                Ok(connection) => {
                    D::settle(connection, std::slice::from_ref(&settlement), keep).await
                }
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => settled += 1,
                Err(error) if error.is_of_row() => drop_refused(&settlement, &error),
                Err(error) => {
                    let is_lost = !is_refusal(&error);
                    refused.push(settlement);
                    if is_lost {
                        self.landed.append(&mut refused);
                        return Err(error);
                    }
                    refusal = Some(error);
                }
            }
        }
        self.landed = refused;
        Ok((settled, refusal))
    }
}

/// Whether the database was there and said no, and will hardly say yes a moment later.
fn is_refusal(error: &Error) -> bool {
    matches!(error, Error::Database(sqlx::Error::Database(_))) && !error.is_transient()
}

fn drop_refused(settlement: &Settlement, error: &Error) {
    let error = DisplayChain(error);
    tracing::error!(id = %settlement.id, %error, "cannot be settled; it is tried again when its lease ends");
}
