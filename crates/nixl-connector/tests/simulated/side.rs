//! A fabric on a clock that stands still, and agents whose reactors the test turns.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nixl_connector::simulated::{Fabric, Faults};
use nixl_descriptor::{
    CacheLimits, DescriptorList, LeaseMode, Leased, Leases, Region, RegisterError, Registrar,
    Registration, RegistrationCache,
};
use nixl_metadata::{
    AgentMetadata, Limits, NotificationKey, OperationKind, RdmaMetadata, SerializedDescriptor,
};
use nixl_ops::{
    Connected, ConnectionExecutor, Driver, DriverConfig, ManualClock, OfferSpec, OperationOptions,
    Reactor, ReadOperation, ReadableOperation, TransferRequest, Transport, TransportError,
    TransportExecutor,
};

pub(crate) const DRAIN: Duration = Duration::from_secs(60);
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) fabric: Fabric,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        Self { fabric: Fabric::new(clock.clone()), clock }
    }

    pub(crate) fn side(&self, name: &str) -> Side {
        self.side_of(self.fabric.transport(name))
    }

    fn side_of(&self, transport: Arc<dyn Transport>) -> Side {
        // No head start for callers: a turn looks at everything.
        let config = DriverConfig::default().drain(DRAIN).inline_spin(Duration::ZERO);
        let (driver, reactor) = Driver::manual(transport.clone(), self.clock.clone(), config);
        let registrar = transport.registrar();
        let cache = RegistrationCache::new(Arc::clone(&registrar), CacheLimits::default());
        Side { registrar, cache, transport, driver: Arc::new(driver), reactor }
    }

    /// A target that offers `len` bytes of pattern, and an initiator that has connected to it.
    pub(crate) fn scene(&self, len: usize) -> Scene {
        self.scene_of(len, self.fabric.transport("initiator"))
    }

    /// The same, with this initiator.
    pub(crate) fn scene_of(&self, len: usize, initiator: Arc<dyn Transport>) -> Scene {
        let (target, initiator) = (self.side("target"), self.side_of(initiator));
        let source = Region::try_from(pattern(len)).unwrap();
        let offer = target.offer(&source, OperationOptions::new().timeout(TIMEOUT));
        initiator.connect(offer.metadata()).unwrap();
        Scene { local: Region::zeroed(len).unwrap(), target, initiator, offer, source }
    }

    pub(crate) fn faults_of(&self, side: &Side) -> Faults {
        self.fabric.faults_of(side.transport.agent_name()).unwrap()
    }
}

pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 + 1).collect()
}

pub(crate) struct Scene {
    pub(crate) target: Side,
    pub(crate) initiator: Side,
    pub(crate) offer: ReadableOperation,
    pub(crate) source: Region,
    pub(crate) local: Region,
}

impl Scene {
    pub(crate) fn read(&self) -> Result<ReadOperation, TransportError> {
        let options = OperationOptions::new().timeout(TIMEOUT);
        self.initiator.read(self.offer.metadata(), &self.local, options)
    }

    pub(crate) fn turn(&mut self) {
        self.initiator.reactor.turn();
        self.target.reactor.turn();
    }

    /// How many of the first bytes of the destination hold the pattern; all others must be zero.
    pub(crate) fn arrived(&self) -> usize {
        let image = self.local.to_vec().unwrap();
        let arrived = image.iter().position(|byte| *byte == 0).unwrap_or(image.len());
        assert_eq!(image[..arrived], pattern(image.len())[..arrived]);
        assert!(image[arrived..].iter().all(|byte| *byte == 0));
        arrived
    }
}

pub(crate) fn is_leased(region: &Region) -> bool {
    Leases::acquire(&[region.whole()], LeaseMode::Write).is_err()
}

pub(crate) struct Side {
    pub(crate) transport: Arc<dyn Transport>,
    registrar: Arc<dyn Registrar>,
    cache: RegistrationCache,
    pub(crate) driver: Arc<Driver>,
    pub(crate) reactor: Reactor,
}

impl Side {
    /// Anew, whether or not it is registered.
    pub(crate) fn register(&self, region: &Region) -> Result<Registration, RegisterError> {
        Registration::new(&self.registrar, region)
    }

    pub(crate) fn metadata(&self, region: &Region, kind: OperationKind) -> RdmaMetadata {
        let whole =
            SerializedDescriptor::new(region.device(), region.address(), region.len() as u64);
        let agent = AgentMetadata::compress(&self.transport.local_metadata().unwrap()).unwrap();
        let key = NotificationKey::random();
        RdmaMetadata::new(kind, vec![whole.unwrap()], agent, key).unwrap()
    }

    pub(crate) fn offer(&self, region: &Region, options: OperationOptions) -> ReadableOperation {
        let list = DescriptorList::from(region.clone());
        let leased = Leased::from(Leases::acquire(list.as_slice(), LeaseMode::Read).unwrap());
        let registrations = vec![self.cache.get_or_register(region).unwrap()];
        let metadata = self.metadata(region, OperationKind::Read);
        let spec = OfferSpec::new(metadata, list, leased, registrations);
        let executor: Arc<dyn ConnectionExecutor> = Arc::new(TransportExecutor);
        ReadableOperation::offer(&self.driver, &executor, spec, options).unwrap()
    }

    pub(crate) fn connect(&self, remote: &RdmaMetadata) -> Result<Connected, TransportError> {
        let blob = remote.agent_metadata().inflate(&Limits::default()).unwrap();
        self.transport.connect(&blob)
    }

    /// Connects, and reads what `remote` names into `region`.
    pub(crate) fn read(
        &self,
        remote: &RdmaMetadata,
        region: &Region,
        options: OperationOptions,
    ) -> Result<ReadOperation, TransportError> {
        self.read_list(remote, (region, DescriptorList::from(region.clone())), options)
    }

    /// The same, into a list of ranges of the region.
    pub(crate) fn read_list(
        &self,
        remote: &RdmaMetadata,
        (region, list): (&Region, DescriptorList),
        options: OperationOptions,
    ) -> Result<ReadOperation, TransportError> {
        let peer = self.connect(remote)?.into_peer();
        let leased = Leased::from(Leases::acquire(list.as_slice(), LeaseMode::Write).unwrap());
        let registrations = vec![self.cache.get_or_register(region).unwrap()];
        let request = TransferRequest::inter_process(
            OperationKind::Read,
            (&list, &leased),
            remote,
            &self.transport,
            &peer,
            registrations,
        );
        let execution = TransportExecutor.execute(request)?;
        Ok(ReadOperation::begin(&self.driver, execution, list, options).unwrap())
    }
}

/// The output of a future that is ready at its first poll.
pub(crate) fn now<F: Future<Output: Debug>>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("still pending"),
    }
}
