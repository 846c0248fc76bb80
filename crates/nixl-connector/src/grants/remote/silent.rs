//! Reads of a peer's memory without a ticket: of words, and of the first bytes of layouts.

use nixl_descriptor::{LeaseMode, Leases};
use nixl_ops::{Completion, OperationOptions, PeerId, ReadOperation};

use crate::grants::read::Lists;
use crate::offload::Offloaded;
use crate::{Connector, ConnectorError};

impl Connector {
    /// Reads a peer's memory, of which the peer is not told. The deadline counts from the call.
    pub(super) async fn read_silently(
        &self,
        lists: Lists,
        options: OperationOptions,
    ) -> Result<(Completion, PeerId), ConnectorError> {
        let Lists { local, remote } = lists;
        let policy = options.path_policy();
        let me = self.clone();
        let prepare = async move {
            let leased = Leases::acquire_list(local.clone(), LeaseMode::Write)?;
            let memory = (&local, &leased);
            let (execution, peer) =
                me.prepare_silently(memory, &remote, (policy, None, None)).await?;
            Ok::<_, ConnectorError>((execution, peer, local))
        };
        let driver = self.connection().driver();
        // The layouts of an export may have many parts.
        let prepare = Offloaded::new(self.connection().work()?, prepare);
        let (prepared, options) = driver.with_timeout(options, prepare).await?;
        let (execution, peer, local) = prepared??;
        let mut read = ReadOperation::begin(driver, execution, local, options.unmetered())?;
        Ok((read.wait_for_completion().await?, peer))
    }
}
