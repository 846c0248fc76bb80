//! Reads of a peer's memory without a ticket: of words, and of the first bytes of layouts.

use std::num::NonZeroU64;

use nixl_descriptor::{LeaseMode, Leases};
use nixl_ops::{Completion, OperationOptions, PeerId, ReadOperation, TransportError};

use crate::admission::Admitted;
use crate::connector::SilentRead;
use crate::grants::read::Lists;
use crate::offload::Offloaded;
use crate::{Connector, ConnectorError};

impl Connector {
    /// Reads a peer's memory, without a notification to the peer, if `check` succeeds directly before the post; on this connection if one
    /// is given. The deadline counts from the call.
    pub(super) async fn read_silently(
        &self,
        lists: Lists,
        (options, connection): (OperationOptions, Option<NonZeroU64>),
        check: impl Fn() -> Result<(), TransportError> + Send + 'static,
    ) -> Result<(Completion, PeerId), ConnectorError> {
        let Lists { local, remote, .. } = lists;
        let policy = options.path_policy();
        let me = self.clone();
        let prepare = async move {
            let leased = Leases::acquire_list(local.clone(), LeaseMode::Write)?;
            let memory = (&local, &leased);
            let to = SilentRead { policy, connection, ..SilentRead::default() };
            let (execution, peer) = me.prepare_silently(memory, &remote, to).await?;
            Ok::<_, ConnectorError>((execution, peer, local))
        };
        let driver = self.connection().driver();
        // The layouts of an export may have many parts.
        let prepare = Offloaded::new(self.connection().work()?, prepare);
        let (prepared, options) = driver.with_timeout(options, prepare).await?;
        let (execution, peer, local) = prepared??;
        let execution = Admitted::checked(execution, (), check);
        let mut read = ReadOperation::begin(driver, execution, local, options.unmetered())?;
        Ok((read.wait_for_completion().await?, peer))
    }
}
