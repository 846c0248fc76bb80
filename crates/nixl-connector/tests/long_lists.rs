//! Lists too long for an async thread are walked on another.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;

use nixl_connector::simulated::Fabric;
use nixl_connector::{Connector, ConnectorError};
use nixl_descriptor::{DescriptorList, Region};
use nixl_metadata::{MetadataError, NotificationKey, PeerInfo, RdmaMetadata, Share};
use nixl_ops::{
    ConnectionContext, ConnectionExecutor, Execution, Executor, Offer, OfferRegistry, PathReport,
    SystemClock, TransferRequest, TransportError, TransportExecutor,
};

/// Notes which threads walk lists.
#[derive(Clone, Debug, Default)]
struct Watched {
    threads: Arc<Mutex<Vec<String>>>,
}

fn note(threads: &Mutex<Vec<String>>) {
    let name = thread::current().name().unwrap_or_default().to_owned();
    threads.lock().unwrap().push(name);
}

impl Executor for Watched {
    fn connect(&self, _: ConnectionContext) -> Arc<dyn ConnectionExecutor> {
        Arc::new(self.clone())
    }
}

impl ConnectionExecutor for Watched {
    fn is_local(&self, _: &DescriptorList, _: &RdmaMetadata) -> bool {
        note(&self.threads);
        false
    }

    fn execute(&self, request: TransferRequest<'_>) -> Result<Box<dyn Execution>, TransportError> {
        note(&self.threads);
        let execution = TransportExecutor.execute(request)?;
        Ok(Box::new(Posted { execution, threads: Some(Arc::clone(&self.threads)) }))
    }

    fn offers(&self) -> Option<&dyn OfferRegistry> {
        Some(self)
    }
}

impl OfferRegistry for Watched {
    fn offer_created(&self, _: Offer) {}

    fn offer_ended(&self, _: &NotificationKey) {}

    fn describe(&self, info: PeerInfo) -> PeerInfo {
        info
    }

    fn shares(&self, _: &DescriptorList) -> Vec<Share> {
        note(&self.threads);
        Vec::new()
    }
}

struct Posted {
    execution: Box<dyn Execution>,
    threads: Option<Arc<Mutex<Vec<String>>>>,
}

impl Execution for Posted {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        // The first poll posts.
        if let Some(threads) = self.threads.take() {
            note(&threads);
        }
        self.execution.poll(cx)
    }

    fn abandon(&mut self) -> bool {
        self.execution.abandon()
    }

    fn report(&self) -> PathReport {
        self.execution.report()
    }
}

fn list(descriptors: usize) -> DescriptorList {
    let region = Region::zeroed(descriptors * 16).unwrap();
    let piece = |i| region.descriptor(i * 16..i * 16 + 8).unwrap();
    DescriptorList::try_from((0..descriptors).map(piece).collect::<Vec<_>>()).unwrap()
}

/// The threads that walked lists of so many descriptors.
async fn threads(descriptors: usize) -> Vec<String> {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let threads = Arc::<Mutex<Vec<String>>>::default();
    let connector = |name| {
        let executor = Watched { threads: Arc::clone(&threads) };
        let transport = fabric.transport(name);
        Connector::builder().transport(transport).executor(Arc::new(executor)).build()
    };
    let (a, b) = (connector("a").await.unwrap(), connector("b").await.unwrap());
    let mut offer = b.create_readable(list(descriptors)).await.unwrap();
    let mut read = a.begin_read(offer.metadata(), list(descriptors)).await.unwrap();
    read.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    let mut offer = b.create_writable(list(descriptors)).await.unwrap();
    let mut write = a.begin_write(list(descriptors), offer.metadata()).await.unwrap();
    write.wait_for_completion().await.unwrap();
    offer.wait_for_completion().await.unwrap();
    let threads = threads.lock().unwrap();
    assert_eq!(threads.len(), 8, "each is noted");
    threads.clone()
}

#[tokio::test(flavor = "current_thread")]
async fn short_lists_are_walked_on_the_callers_thread_and_long_ones_never() {
    let here = thread::current().name().unwrap_or_default().to_owned();
    assert!(threads(64).await.contains(&here));
    let long = threads(65).await;
    assert!(long.iter().all(|name| name == "nixl-work" || name == "nixl-driver"), "{long:?}");
}

/// What no reader with default limits takes is not offered, and says what to do.
#[tokio::test]
async fn offers_beyond_the_limits_of_readers_are_not_made() {
    let fabric = Fabric::new(Arc::new(SystemClock::new()));
    let connector = Connector::builder().transport(fabric.transport("a")).build().await.unwrap();
    let most = 1 << 16;
    let mut offer = connector.create_readable(list(most)).await.unwrap();
    for bytes in
        [offer.metadata().to_native_bytes().unwrap(), offer.metadata().to_dynamo_json().into()]
    {
        RdmaMetadata::decode(&bytes).unwrap();
    }
    offer.cancel();
    for descriptors in [most + 1, most * 3] {
        let local = list(descriptors);
        let region = local.as_slice().first().unwrap().region().clone();
        let error = connector.create_readable(local).await.unwrap_err();
        let expected = MetadataError::TooManyDescriptors { limit: most };
        assert_eq!(error, ConnectorError::Metadata(expected));
        assert!(error.to_string().contains("merge neighbours, split the transfer"), "{error}");
        region.copy_from_slice(0, &[1]).unwrap();
    }
}
