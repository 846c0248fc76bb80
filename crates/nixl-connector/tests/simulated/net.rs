//! Two connectors on one simulated fabric, on real time.

use std::sync::Arc;

use nixl_connector::Connector;
use nixl_connector::simulated::Fabric;
use nixl_ops::SystemClock;

pub(crate) struct Net {
    pub(crate) fabric: Fabric,
    pub(crate) target: Connector,
    pub(crate) initiator: Connector,
}

pub(crate) async fn net() -> Net {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let build = |name| Connector::builder().transport(fabric.transport(name)).build();
    let (target, initiator) = (build("target").await.unwrap(), build("initiator").await.unwrap());
    Net { fabric, target, initiator }
}
