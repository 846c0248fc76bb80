//! Tests of the planner: choices on known machines, and properties on any.

use std::collections::HashSet;

use nixl_descriptor::{AllocationKind, PiecesHandle, RendezvousState};
use nixl_device::Device;
use nixl_metadata::{
    AgentMetadata, HostIdentity, MessageVersions, NotificationKey, OperationKind, PeerInfo,
    RdmaMetadata, SerializedDescriptor, Share, ShareKind,
};
use nixl_ops::{Medium, PathKind, PathPolicy, TransportError};
use proptest::prelude::*;

use super::*;
use crate::facts::*;
use crate::local::{GpuCapabilities, MemoryKind};

const GPU: [[u8; 16]; 2] = [[0x1a; 16], [0x2b; 16]];

/// Two GPUs that reach each other, no NIC: the machine of the figures.
fn here() -> LocalFacts {
    let gpu = |ordinal: u32| LocalGpu {
        uuid: Some(GPU[ordinal as usize]),
        gpu_direct: Err("no RDMA NIC on this host".into()),
        ..LocalGpu::new(ordinal)
    };
    LocalFacts {
        cuda: Ok(()),
        gpus: vec![gpu(0), gpu(1)],
        peer_access: vec![(0, 1)],
        ..LocalFacts::default()
    }
}

/// Another process of the same machine.
fn neighbour() -> PeerFacts {
    let gpu =
        |ordinal: u32| PeerGpu { ordinal, uuid: Some(GPU[ordinal as usize]), gpu_direct: false };
    PeerFacts {
        native: true,
        locality: Locality {
            host: Some(true),
            pid_namespace: Some(true),
            ipc_namespace: Some(true),
            process: false,
        },
        staging: true,
        ipc: true,
        versions: MessageVersions::default(),
        media: None,
        gpus: vec![gpu(0), gpu(1)],
    }
}

fn elsewhere() -> PeerFacts {
    let no = Some(false);
    let locality = Locality { host: no, pid_namespace: no, ipc_namespace: no, process: false };
    PeerFacts { locality, ..neighbour() }
}

fn ask(local: MemoryKind, remote: Device) -> PathQuery {
    PathQuery {
        operation: OperationKind::Read,
        local,
        export: Export::Unknown,
        is_read_only: false,
        remote,
        engine: Engine::Ucx,
        offered: OfferFacts::default(),
        policy: PathPolicy::auto(),
    }
}

fn shared(form: ShareForm) -> OfferFacts {
    OfferFacts { share: Some(form), ..OfferFacts::default() }
}

fn plan(query: PathQuery, here: &LocalFacts, peer: &PeerFacts) -> PathPlan {
    PathPlan::new(query, here, peer, &PathCosts::default())
}

#[test]
fn costs_from_a_file_decide() {
    let query = || ask(MemoryKind::Gpu(0), Device::cuda(1));
    let chosen_with = |costs: &PathCosts| {
        chosen(&PathPlan::new(query(), &here(), &neighbour(), costs), 64 << 20).0
    };
    assert_eq!(chosen_with(&PathCosts::default()), PathKind::StagedBothSides);
    let slow = r#"{"staged_shared": {"fixed_us": 1e9, "per_chunk_us": 0.0, "gbps": 7.0}}"#;
    let slow = PathCosts::from_json(slow).unwrap();
    assert_eq!(chosen_with(&slow), PathKind::EngineStaged);
}

fn chosen(plan: &PathPlan, bytes: u64) -> (PathKind, Option<Medium>) {
    let path = plan.choose(bytes, &PathHistory::new()).unwrap().path;
    (path.kind, path.medium)
}

fn reason(plan: &PathPlan, kind: PathKind) -> &str {
    &plan.refused.iter().find(|path| path.kind == kind).unwrap().reason
}

const LARGE: u64 = 64 << 20;
const ONE: Device = Device::cuda(1);

#[test]
fn a_shared_gpu_is_copied_directly() {
    let query = |local| PathQuery { offered: shared(ShareForm::CudaIpc), ..ask(local, ONE) };
    for local in [MemoryKind::Gpu(0), MemoryKind::Gpu(1), MemoryKind::Pinned, MemoryKind::Pageable]
    {
        let plan = plan(query(local), &here(), &neighbour());
        assert_eq!(chosen(&plan, LARGE), (PathKind::CudaIpc, Some(Medium::Gpu)), "{plan}");
        if local != MemoryKind::Pageable {
            assert_eq!(chosen(&plan, 4096).0, PathKind::CudaIpc, "{plan}");
        }
    }
}

#[test]
fn a_gpu_is_known_by_its_uuid() {
    let query = PathQuery { offered: shared(ShareForm::CudaIpc), ..ask(MemoryKind::Gpu(0), ONE) };
    let why = |here: &LocalFacts, peer: &PeerFacts| {
        let plan = plan(query, here, peer);
        let ipc = plan.available.iter().find(|path| path.kind == PathKind::CudaIpc);
        ipc.map_or_else(|| reason(&plan, PathKind::CudaIpc).to_owned(), |path| path.why.to_string())
    };
    let mut peer = neighbour();
    assert_eq!(why(&here(), &peer), "the GPUs reach each other");
    // The peer counts the other way round.
    peer.gpus[1].uuid = Some(GPU[0]);
    assert_eq!(why(&here(), &peer), "both sides are on one GPU");
    // `CUDA_VISIBLE_DEVICES` hides it here.
    peer.gpus[1].uuid = Some([9; 16]);
    assert!(why(&here(), &peer).contains("not visible here"));

    let apart = LocalFacts { peer_access: vec![], ..here() };
    assert_eq!(why(&apart, &neighbour()), "cuda:0 has no P2P access to the peer's GPU 2b2b2b2b…");
}

#[test]
fn each_missing_fact_is_named() {
    let ipc = PathQuery { offered: shared(ShareForm::CudaIpc), ..ask(MemoryKind::Gpu(0), ONE) };
    let host = ask(MemoryKind::Gpu(0), Device::HOST);
    let file = PathQuery { offered: shared(ShareForm::File), ..host };
    let only = |value| LocalFacts { ucx: UcxTransports::parse(value), ..here() };
    let locality = |change: fn(&mut Locality)| {
        let mut peer = neighbour();
        change(&mut peer.locality);
        peer
    };
    let nic = LocalFacts { rdma: Ok(()), ..here() };
    let with_nic = PeerMedia { rdma: true, ..PeerMedia::default() };
    let peer_with_nic = PeerFacts { media: Some(with_nic), ..elsewhere() };
    let no_staging = PeerFacts { staging: false, ..neighbour() };
    let apart = || locality(|n| n.pid_namespace = Some(false));
    use PathKind::{CudaIpc, EngineStaged, GpuDirect, SharedMemory, StagedBothSides};
    for (kind, query, here, peer, expected) in [
        (CudaIpc, ipc, here(), elsewhere(), "the peer runs on another host"),
        (CudaIpc, ipc, here(), apart(), "separate PID namespaces"),
        (
            CudaIpc,
            ipc,
            here(),
            locality(|n| n.ipc_namespace = Some(false)),
            "separate IPC namespaces",
        ),
        (
            CudaIpc,
            ipc,
            here(),
            locality(|n| n.process = true),
            "the peer is in this very process, which cannot open its own handles",
        ),
        (CudaIpc, ipc, only("tcp,cuda_copy"), neighbour(), "UCX_TLS allows no cuda_ipc"),
        (CudaIpc, ipc, LocalFacts::default(), neighbour(), "this process has no CUDA"),
        (
            CudaIpc,
            ask(MemoryKind::Pinned, Device::HOST),
            here(),
            neighbour(),
            "there is no memory of a CUDA GPU that the other could reach",
        ),
        (
            CudaIpc,
            host,
            here(),
            no_staging.clone(),
            "the peer does not say that its GPU copies for others",
        ),
        (
            CudaIpc,
            host,
            here(),
            PeerFacts { gpus: Vec::new(), ..neighbour() },
            "the peer has no GPU that could copy",
        ),
        (CudaIpc, host, here(), elsewhere(), "the peer runs on another host"),
        (
            CudaIpc,
            ask(MemoryKind::Gpu(0), ONE),
            here(),
            neighbour(),
            "no other process can open the memory of either side",
        ),
        (
            CudaIpc,
            ask(MemoryKind::Pinned, ONE),
            here(),
            neighbour(),
            "no other process can open the peer's memory",
        ),
        (SharedMemory, file, only("tcp"), neighbour(), "UCX_TLS allows no shared memory"),
        (
            SharedMemory,
            file,
            here(),
            apart(),
            "separate PID namespaces; a rendezvous folder that both see would help (PathExecutor::rendezvous)",
        ),
        (SharedMemory, host, here(), neighbour(), "the peer did not share this memory"),
        (GpuDirect, host, here(), neighbour(), "no RDMA NIC on this host"),
        (
            GpuDirect,
            host,
            nic.clone(),
            elsewhere(),
            "the peer does not say that it has an RDMA NIC",
        ),
        (GpuDirect, host, nic, peer_with_nic, "cuda:0: no RDMA NIC on this host"),
        (StagedBothSides, ipc, here(), no_staging, "the peer's metadata has no staging capability"),
        (
            StagedBothSides,
            ipc,
            here(),
            PeerFacts::unknown(),
            "the peer's metadata has no staging capability: it is Dynamo's profile",
        ),
        (
            EngineStaged,
            ipc,
            only("tcp"),
            neighbour(),
            "UCX_TLS allows no cuda_copy, without which UCX takes no GPU memory",
        ),
    ] {
        assert_eq!(reason(&plan(query, &here, &peer), kind), expected);
    }
}

#[test]
fn over_sockets_large_transfers_are_staged_and_small_ones_left_to_the_engine() {
    let here = LocalFacts { ucx: UcxTransports::parse("tcp,cuda_copy"), ..here() };
    let plan = plan(ask(MemoryKind::Gpu(0), ONE), &here, &neighbour());
    assert_eq!(chosen(&plan, LARGE), (PathKind::StagedBothSides, Some(Medium::Tcp)));
    assert_eq!(chosen(&plan, 4096), (PathKind::EngineStaged, Some(Medium::Tcp)));
    let rejected = plan.alternatives(PathKind::EngineStaged, 4096, &PathHistory::new());
    let staged = rejected.iter().find(|r| r.kind() == PathKind::StagedBothSides).unwrap();
    assert!(staged.reason().starts_with("estimated at"), "{}", staged.reason());
    assert_eq!(plan.degraded(plan.choose(4096, &PathHistory::new()).unwrap().path), None);
}

#[test]
fn the_engine_s_own_cuda_ipc_is_better_than_staging() {
    // The executor's own is not allowed.
    let policy = PathPolicy::auto().forbid(PathKind::CudaIpc);
    let query =
        PathQuery { policy, offered: shared(ShareForm::CudaIpc), ..ask(MemoryKind::Gpu(0), ONE) };
    let plan = plan(query, &here(), &neighbour());
    assert_eq!(chosen(&plan, LARGE), (PathKind::EngineStaged, Some(Medium::Gpu)));
    assert_eq!(plan.degraded(plan.choose(LARGE, &PathHistory::new()).unwrap().path), None);
}

#[test]
fn host_memory_needs_no_cooperation() {
    // A GPU here, host memory there: with any peer.
    let query = ask(MemoryKind::Gpu(0), Device::HOST);
    for peer in [PeerFacts::unknown(), elsewhere()] {
        let plan = plan(query, &here(), &peer);
        assert_eq!(chosen(&plan, LARGE).0, PathKind::StagedOneSide, "{plan}");
    }
    let query = PathQuery { offered: shared(ShareForm::File), ..query };
    let plan = plan(query, &here(), &neighbour());
    assert_eq!(chosen(&plan, LARGE).0, PathKind::SharedMemory);
}

#[test]
fn a_neighbour_s_gpu_copies_what_is_exported_to_it() {
    let plan = plan(ask(MemoryKind::Gpu(0), Device::HOST), &here(), &neighbour());
    assert_eq!(chosen(&plan, LARGE), (PathKind::CudaIpc, Some(Medium::Gpu)), "{plan}");
    // Little is not worth the messages.
    assert_eq!(chosen(&plan, 4096).0, PathKind::StagedOneSide, "{plan}");
}

#[test]
fn gpu_memory_without_a_handle_is_copied_by_its_owner_if_the_other_side_has_one() {
    let query = ask(MemoryKind::Gpu(0), ONE).export(Export::ByHandle);
    let plan_for = |query, peer: &PeerFacts| plan(query, &here(), peer);
    let versions = MessageVersions::default().with_staging(2).with_remote_copy(3);
    let neighbour = || PeerFacts { versions, ..neighbour() };
    let remote_copy = plan_for(query, &neighbour());
    assert_eq!(
        chosen(&remote_copy, LARGE),
        (PathKind::CudaIpc, Some(Medium::Gpu)),
        "{remote_copy}"
    );
    let same = plan_for(ask(MemoryKind::Gpu(1), ONE).export(Export::ByHandle), &neighbour());
    assert!(same.available[0].why.contains("on one GPU"), "{same}");
    let apart = LocalFacts { peer_access: vec![], ..here() };
    let apart = plan(query, &apart, &neighbour());
    assert!(reason(&apart, PathKind::CudaIpc).contains("P2P"), "{apart}");
    // An earlier release refuses it.
    let versions = MessageVersions::default().with_staging(2).with_remote_copy(2);
    let earlier = plan_for(query, &PeerFacts { versions, ..neighbour() });
    assert!(reason(&earlier, PathKind::CudaIpc).contains("host memory alone"), "{earlier}");
    let host = plan_for(PathQuery { local: MemoryKind::Pinned, ..query }, &neighbour());
    assert!(reason(&host, PathKind::CudaIpc).contains("no other process can open"), "{host}");
}

#[test]
fn memory_without_handles_bounces_on_a_gpu_of_a_peer_that_can() {
    use PathKind::{CudaIpc, StagedBothSides, StagedOnGpu};
    let query = ask(MemoryKind::Gpu(0), ONE).export(Export::Without(AllocationKind::Pool));
    let speaking = |staging, peer: PeerFacts| {
        let versions = MessageVersions::default().with_staging(staging).with_remote_copy(3);
        PeerFacts { versions, ..peer }
    };
    let bounced = plan(query, &here(), &speaking(3, neighbour()));
    for bytes in [4096, 1 << 20, LARGE] {
        assert_eq!(chosen(&bounced, bytes), (StagedOnGpu, Some(Medium::Gpu)), "{bounced}");
    }
    assert!(
        reason(&bounced, CudaIpc).ends_with("this side's is memory of a pool (cuMemAllocAsync)")
    );
    let why = |plan: &PathPlan| {
        let path = plan.available.iter().find(|path| path.kind == StagedOnGpu).unwrap();
        path.why.to_string()
    };
    assert!(why(&bounced).contains("this side's is memory of a pool"), "{bounced}");
    assert!(why(&bounced).contains("reach each other"), "{bounced}");
    let same = PathQuery { local: MemoryKind::Gpu(1), ..query };
    assert!(why(&plan(same, &here(), &speaking(3, neighbour()))).contains("on one GPU"));
    // Where one side has a handle, one copy is better than two.
    let remote_copy = plan(query.export(Export::ByHandle), &here(), &speaking(3, neighbour()));
    assert_eq!(chosen(&remote_copy, LARGE).0, CudaIpc, "{remote_copy}");
    let earlier = plan(query, &here(), &speaking(2, neighbour()));
    assert!(reason(&earlier, StagedOnGpu).contains("host memory alone"), "{earlier}");
    assert_eq!(chosen(&earlier, LARGE).0, StagedBothSides, "{earlier}");
    for (here, peer, missing) in [
        (here(), elsewhere(), "another host"),
        (here(), PeerFacts { ipc: false, ..neighbour() }, "shares no GPU memory"),
        (here(), PeerFacts { staging: false, ..neighbour() }, "no staging capability"),
        (LocalFacts { peer_access: vec![], ..here() }, neighbour(), "P2P"),
    ] {
        let plan = plan(query, &here, &speaking(3, peer));
        assert!(reason(&plan, StagedOnGpu).contains(missing), "{plan}");
    }
}

#[test]
fn memory_that_its_gpu_may_only_read_is_not_written() {
    let read = PathQuery { is_read_only: true, ..ask(MemoryKind::Gpu(0), ONE) };
    let refused = plan(read, &here(), &neighbour());
    assert!(refused.available.is_empty(), "{refused}");
    assert!(refused.refused.iter().all(|path| path.reason.contains("only read")), "{refused}");
    let write = PathQuery { operation: OperationKind::Write, ..read };
    assert!(!plan(write, &here(), &neighbour()).available.is_empty());
}

#[test]
fn the_engine_s_copies_of_memory_without_a_handle_go_through_the_host() {
    let neither = plan(ask(MemoryKind::Gpu(0), ONE), &here(), &neighbour());
    assert!(reason(&neither, PathKind::CudaIpc).contains("either side"), "{neither}");
    assert_eq!(chosen(&neither, LARGE).0, PathKind::StagedBothSides, "{neither}");
    let medium = |plan: &PathPlan| {
        let staged = plan.available.iter().find(|p| p.kind == PathKind::EngineStaged).unwrap();
        staged.medium
    };
    assert_ne!(medium(&neither), Some(Medium::Gpu), "{neither}");
    // Of Dynamo's profile it is not known whether there is a handle.
    let unknown = PeerFacts { native: false, staging: false, ipc: false, ..neighbour() };
    assert_eq!(medium(&plan(ask(MemoryKind::Gpu(0), ONE), &here(), &unknown)), Some(Medium::Gpu));
}

#[test]
fn a_peer_takes_part_if_its_messages_are_of_this_version_an_earlier_one_or_the_next() {
    for (theirs, supports_version) in [
        (0, [false; 2]),
        (1, [true; 2]),
        (2, [true; 2]),
        (3, [true; 2]),
        (4, [true; 2]),
        (5, [true; 2]),
        (6, [false; 2]),
        (u16::MAX, [false; 2]),
    ] {
        let [staging, remote_copy] = supports_version;
        let versions = MessageVersions::default().with_staging(theirs).with_remote_copy(theirs);
        let peer = PeerFacts { versions, ..neighbour() };
        let staged = plan(ask(MemoryKind::Gpu(0), ONE), &here(), &peer);
        let copied = plan(ask(MemoryKind::Gpu(0), Device::HOST), &here(), &peer);
        for (plan, kind, messages, supports_version) in [
            (&staged, PathKind::StagedBothSides, "staging", staging),
            (&copied, PathKind::CudaIpc, "remote copies", remote_copy),
        ] {
            let available = plan.available.iter().any(|path| path.kind == kind);
            assert_eq!(available, supports_version, "{messages} {theirs}: {plan}");
            if !supports_version {
                let why = format!("the peer speaks version {theirs} of {messages} messages");
                assert!(reason(plan, kind).starts_with(&why), "{plan}");
            }
        }
    }
}

#[test]
fn a_peer_that_does_not_cooperate_is_degraded() {
    let plan = plan(ask(MemoryKind::Pageable, ONE), &here(), &PeerFacts::unknown());
    let taken = plan.choose(LARGE, &PathHistory::new()).unwrap().path;
    assert_eq!(taken.kind, PathKind::EngineStaged);
    assert!(plan.degraded(taken).unwrap().contains("Dynamo's profile"));
}

#[test]
fn host_to_host_is_carried_by_what_both_have() {
    let query = ask(MemoryKind::Pageable, Device::HOST);
    let carried = |here: &LocalFacts, peer: &PeerFacts| {
        plan(query, here, peer).choose(LARGE, &PathHistory::new()).map(|c| c.path.medium)
    };
    let nic = LocalFacts { rdma: Ok(()), ..here() };
    let rdma = PeerMedia { rdma: true, tcp: true, shared_memory: true };
    let far_with_nic = PeerFacts { media: Some(rdma), ..elsewhere() };
    assert_eq!(carried(&here(), &neighbour()), Ok(Some(Medium::SharedMemory)));
    assert_eq!(carried(&here(), &elsewhere()), Ok(Some(Medium::Tcp)));
    assert_eq!(carried(&nic, &far_with_nic), Ok(Some(Medium::Rdma)));
    assert_eq!(carried(&nic, &PeerFacts::unknown()), Ok(None));
    // What the engine itself expects counts for more, unless it cannot be.
    let slow = PathQuery { engine: Engine::UcxBySockets, ..query };
    let rc = LocalFacts { ucx: UcxTransports::parse("rc"), ..nic.clone() };
    let known = plan(slow, &rc, &far_with_nic);
    assert_eq!(known.choose(LARGE, &PathHistory::new()).unwrap().path.medium, None);
    for peer in [PeerFacts::unknown(), neighbour(), far_with_nic] {
        let plan = plan(slow, &nic, &peer);
        let chosen = plan.choose(LARGE, &PathHistory::new()).unwrap();
        assert_eq!((chosen.path.kind, chosen.path.medium), (PathKind::Direct, Some(Medium::Tcp)));
    }
    let shm = LocalFacts { ucx: UcxTransports::parse("shm"), ..here() };
    assert!(carried(&shm, &elsewhere()).is_err());
}

#[test]
fn requiring_gpu_direct_without_a_nic_names_the_nic_first() {
    let policy = PathPolicy::auto().require(PathKind::GpuDirect);
    let query = PathQuery { policy, ..ask(MemoryKind::Gpu(0), ONE) };
    let plan = plan(query, &here(), &neighbour());
    match plan.choose(LARGE, &PathHistory::new()) {
        Err(TransportError::NoPath { rejected }) => {
            assert_eq!(rejected[0].kind(), PathKind::GpuDirect);
            assert_eq!(rejected[0].reason(), "no RDMA NIC on this host");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn inside_the_process_no_engine_is_asked() {
    let offered = OfferFacts::by_this_process();
    let query = PathQuery { offered, ..ask(MemoryKind::Pageable, Device::HOST) };
    assert_eq!(chosen(&plan(query, &here(), &neighbour()), 1), (PathKind::SameProcessCopy, None));
    let query = PathQuery { offered, ..ask(MemoryKind::Pageable, ONE) };
    let plan = plan(query, &here(), &neighbour());
    assert!(matches!(chosen(&plan, 1), (PathKind::Local(_), None)));
    assert_eq!(plan.available.len(), 1);
}

#[test]
fn a_ranking_is_shown_line_by_line() {
    let here = LocalFacts { ucx: UcxTransports::parse("tcp,cuda_copy"), ..here() };
    let query = PathQuery { offered: shared(ShareForm::CudaIpc), ..ask(MemoryKind::Gpu(0), ONE) };
    let plan = plan(query, &here, &neighbour());
    let mut history = PathHistory::new();
    history.note_cooldown(PathKind::StagedBothSides, "failed 2 s ago");
    let shown = plan.rank(LARGE, &history).to_string();
    let expected = "\
Read of 67108864 bytes, cuda:0 and the peer's cuda:1
  take engine-staged by tcp, estimated at 335.6ms (0.2 GB/s): the engine copies GPU memory by itself
  then staged-both-sides by tcp, estimated at 14.3ms (4.8 GB/s): both sides stage; failed 2 s ago
  not same-process-copy: the peer is another process
  not local: the peer is another process
  not cuda-ipc: UCX_TLS allows no cuda_ipc
  not shared-memory: the peer's memory is not host memory
  not staged-on-gpu: UCX_TLS allows no cuda_ipc
  not gpu-direct: no RDMA NIC on this host
  not direct: GPU memory takes part
  not staged-one-side: GPU memory on both sides";
    assert_eq!(shown, expected);
}

#[test]
fn simulated_gpus_are_shared_and_staged_like_others() {
    let capabilities = GpuCapabilities { gpus: 2, ..GpuCapabilities::default() };
    let here = LocalFacts::default().with_simulated_gpus(&capabilities);
    let query = PathQuery { engine: Engine::Other, ..ask(MemoryKind::Gpu(0), ONE) };
    let plan = plan(query, &here, &neighbour());
    assert_eq!(chosen(&plan, LARGE), (PathKind::StagedBothSides, None));
    let info = describe(&here);
    assert!(info.capabilities().staging() && info.capabilities().ipc());
    let uuids: Vec<_> = info.devices().iter().filter_map(|d| d.uuid()).collect();
    assert!(uuids.len() == 2 && uuids[0] != uuids[1]);
}

fn identity(boot: &str) -> HostIdentity {
    HostIdentity::new("host", boot, 7).unwrap()
}

fn describe(here: &LocalFacts) -> PeerInfo {
    let info = PeerInfo::new("agent", 1, identity("boot")).unwrap();
    here.describe(info.with_transports(["nixl/UCX"]).unwrap(), true)
}

#[test]
fn what_one_side_describes_the_other_understands() {
    let mut facts = here();
    facts.rdma = Ok(());
    facts.gpus[1].gpu_direct = Ok(());
    facts.ucx = UcxTransports::parse("^tcp");
    facts.host = Some(identity("boot"));
    let info = describe(&facts);
    assert_eq!(info.transports(), ["nixl/UCX", "shared-memory", "rdma"]);
    // Saying it again changes nothing.
    assert_eq!(facts.describe(info.clone(), true), info);
    let peer = PeerFacts::new(&info, &facts);
    let media = PeerMedia { shared_memory: true, rdma: true, tcp: false };
    assert_eq!(peer.media, Some(media));
    assert!(peer.native && peer.staging && peer.ipc);
    assert_eq!(peer.locality.host, Some(true));
    assert_eq!(peer.locality.pid_namespace, None);
    assert_eq!(peer.gpu(1).map(|gpu| (gpu.uuid, gpu.gpu_direct)), Some((Some(GPU[1]), true)));
    // A GPU of both sides' NICs.
    let query = ask(MemoryKind::Gpu(1), ONE);
    assert_eq!(chosen(&plan(query, &facts, &peer), LARGE).0, PathKind::GpuDirect);

    let stranger = PeerInfo::new("agent", 1, identity("other")).unwrap();
    assert_eq!(PeerFacts::new(&stranger, &facts).locality.host, Some(false));
    let silent = PeerInfo::new("agent", 1, identity("")).unwrap();
    let silent = PeerFacts::new(&silent, &facts);
    assert_eq!((silent.locality.host, silent.media, silent.staging), (None, None, false));
}

#[test]
fn shares_count_if_they_cover_all_in_one_form() {
    let offer = |devices: &[Device], shares: Vec<Share>| {
        let descriptor =
            |(i, device): (u64, &Device)| SerializedDescriptor::new(*device, 4096 * (i + 1), 64);
        let descriptors: Result<Vec<_>, _> = (0..).zip(devices).map(descriptor).collect();
        let agent = AgentMetadata::compress(b"agent").unwrap();
        let key = NotificationKey::random();
        let remote =
            RdmaMetadata::new(OperationKind::Read, descriptors.unwrap(), agent, key).unwrap();
        OfferFacts::by_a_peer(&remote.with_shares(shares).unwrap()).share
    };
    let mut handle = [0; 72];
    handle[64..].copy_from_slice(&(1u64 << 20).to_le_bytes());
    let ipc = |range| Share::new(range, ShareKind::CudaIpc { handle }, 0);
    let kind = ShareKind::File { pid: 1, fd: 3, name: [4; 16], length: 1 << 20 };
    let file = |range| Share::new(range, kind, 0);
    let (gpu, host) = (Device::cuda(0), Device::HOST);
    assert_eq!(offer(&[gpu, gpu], vec![]), None);
    assert_eq!(offer(&[gpu, gpu], vec![ipc(0..2)]), Some(ShareForm::CudaIpc));
    assert_eq!(offer(&[gpu, gpu], vec![ipc(0..1), ipc(1..2)]), Some(ShareForm::CudaIpc));
    assert_eq!(offer(&[gpu, gpu], vec![ipc(1..2)]), None);
    assert_eq!(offer(&[host], vec![file(0..1)]), Some(ShareForm::File));
    assert_eq!(offer(&[gpu, host], vec![ipc(0..1), file(1..2)]), None);
    let mut of_pieces = handle;
    of_pieces[..40].copy_from_slice(b"\x9enixl pieces v1\x01a random name...........");
    of_pieces[40] = 1;
    assert!(PiecesHandle::from_bytes(&of_pieces).is_some());
    let pieces = |range| Share::new(range, ShareKind::CudaIpc { handle: of_pieces }, 0);
    assert_eq!(offer(&[gpu, gpu], vec![pieces(0..2)]), Some(ShareForm::Pieces));
    assert_eq!(offer(&[gpu, gpu], vec![pieces(0..1), ipc(1..2)]), Some(ShareForm::Mixed));
    assert_eq!(offer(&[gpu, host], vec![pieces(0..1), file(1..2)]), None);
}

#[test]
fn memory_in_pieces_needs_a_way_for_descriptors_and_no_common_ipc_namespace() {
    let query = PathQuery { offered: shared(ShareForm::Pieces), ..ask(MemoryKind::Gpu(0), ONE) };
    let apart = |pid_namespace| {
        let mut peer = neighbour();
        peer.locality.ipc_namespace = Some(false);
        peer.locality.pid_namespace = Some(pid_namespace);
        peer
    };
    let is_there = |query: PathQuery, peer: &PeerFacts| {
        let plan = plan(query, &here(), peer);
        plan.available.iter().any(|path| path.kind == PathKind::CudaIpc)
    };
    assert!(is_there(query, &neighbour()) && is_there(query, &apart(true)));
    // Where the numbers of processes mean others, it takes a folder.
    assert!(!is_there(query, &apart(false)));
    let met =
        |rendezvous| PathQuery { offered: query.offered.with_rendezvous(rendezvous), ..query };
    assert!(is_there(met(RendezvousState::Connected), &apart(false)));
    let absent = plan(met(RendezvousState::Absent), &here(), &apart(false));
    assert!(reason(&absent, PathKind::CudaIpc).contains("not met in the rendezvous folder"));
    for form in [ShareForm::CudaIpc, ShareForm::Mixed] {
        let query = PathQuery { offered: shared(form), ..query };
        assert!(is_there(query, &neighbour()) && !is_there(query, &apart(true)));
    }
    // The peer opens this side's, if it knows how.
    let ours = ask(MemoryKind::Gpu(0), ONE).export(Export::ByPieces);
    let speaking = |version, peer: PeerFacts| PeerFacts {
        versions: MessageVersions::default().with_remote_copy(version),
        ..peer
    };
    assert!(is_there(ours, &speaking(4, neighbour())) && is_there(ours, &speaking(4, apart(true))));
    assert!(!is_there(ours, &speaking(4, apart(false))));
    let older = plan(ours, &here(), &speaking(3, neighbour()));
    assert!(reason(&older, PathKind::CudaIpc).contains("piece by piece"), "{older}");
}

fn memory() -> impl Strategy<Value = MemoryKind> {
    prop_oneof![
        Just(MemoryKind::Pageable),
        Just(MemoryKind::Pinned),
        (0..3u32).prop_map(MemoryKind::Gpu)
    ]
}

fn device() -> impl Strategy<Value = Device> {
    prop_oneof![Just(Device::HOST), (0..3u32).prop_map(Device::cuda), Just(Device::xpu(0))]
}

fn kind() -> impl Strategy<Value = PathKind> {
    proptest::sample::select(PathKind::ALL.to_vec())
}

fn fact() -> impl Strategy<Value = Fact> {
    any::<bool>().prop_map(|there| if there { Ok(()) } else { Err("it is missing".into()) })
}

fn uuid() -> impl Strategy<Value = Option<[u8; 16]>> {
    proptest::option::of((0..4u8).prop_map(|byte| [byte; 16]))
}

prop_compose! {
    fn any_here()(
        ucx in any::<[bool; 5]>(),
        (rdma, cuda) in (fact(), fact()),
        gpus in proptest::collection::vec((uuid(), fact()), 0..3),
        reach in any::<bool>(),
    ) -> LocalFacts {
        let [shared_memory, rdma_allowed, tcp, cuda_copy, cuda_ipc] = ucx;
        let gpu = |(ordinal, (uuid, gpu_direct))| LocalGpu { ordinal, uuid, gpu_direct };
        LocalFacts {
            host: None,
            ucx: UcxTransports { shared_memory, rdma: rdma_allowed, tcp, cuda_copy, cuda_ipc },
            rdma,
            cuda,
            gpus: (0..).zip(gpus).map(gpu).collect(),
            peer_access: if reach { vec![(0, 1)] } else { vec![] },
        }
    }
}

prop_compose! {
    fn any_peer()(
        (native, staging, ipc, process) in any::<(bool, bool, bool, bool)>(),
        locality in any::<[Option<bool>; 3]>(),
        media in any::<Option<(bool, bool, bool)>>(),
        gpus in proptest::collection::vec((uuid(), any::<bool>()), 0..3),
    ) -> PeerFacts {
        let gpu = |(ordinal, (uuid, gpu_direct))| PeerGpu { ordinal, uuid, gpu_direct };
        let [host, pid_namespace, ipc_namespace] = locality;
        let media =
            media.map(|(shared_memory, rdma, tcp)| PeerMedia { shared_memory, rdma, tcp });
        PeerFacts {
            native,
            locality: Locality { host, pid_namespace, ipc_namespace, process },
            staging,
            ipc,
            media,
            gpus: (0..).zip(gpus).map(gpu).collect(),
            versions: MessageVersions::default(),
        }
    }
}

prop_compose! {
    fn any_question()(
        read in any::<bool>(),
        (local, remote) in (memory(), device()),
        ucx in any::<bool>(),
        ours in any::<bool>(),
        share in proptest::option::of(
            proptest::sample::select(vec![
                ShareForm::CudaIpc, ShareForm::Pieces, ShareForm::Mixed, ShareForm::File,
            ])
        ),
    ) -> PathQuery {
        PathQuery {
            operation: if read { OperationKind::Read } else { OperationKind::Write },
            engine: if ucx { Engine::Ucx } else { Engine::Other },
            offered: OfferFacts { ours, share, ..OfferFacts::default() },
            ..ask(local, remote)
        }
    }
}

proptest! {
    #[test]
    fn every_kind_has_one_answer_with_a_reason(
        query in any_question(), here in any_here(), peer in any_peer(),
    ) {
        let plan = plan(query, &here, &peer);
        let kinds = || plan.available.iter().map(|p| p.kind).chain(plan.refused.iter().map(|p| p.kind));
        prop_assert_eq!(kinds().count(), PathKind::ALL.len());
        prop_assert_eq!(kinds().collect::<HashSet<_>>().len(), PathKind::ALL.len());
        prop_assert!(plan.available.iter().all(|path| !path.why.is_empty()));
        prop_assert!(plan.refused.iter().all(|path| !path.reason.is_empty()));
        let again = tests::plan(query, &here, &peer);
        prop_assert_eq!(&again, &plan);
        let history = PathHistory::new();
        prop_assert_eq!(again.rank(LARGE, &history).to_string(), plan.rank(LARGE, &history).to_string());
    }

    #[test]
    fn paths_suit_the_memory(
        query in any_question(), here in any_here(), peer in any_peer(),
    ) {
        let plan = plan(query, &here, &peer);
        let (local_gpu, remote_gpu) = (!query.local.is_host(), !query.remote.is_host());
        for path in &plan.available {
            let suits = match path.kind {
                PathKind::SameProcessCopy => query.offered.ours && !local_gpu && !remote_gpu,
                PathKind::Local(_) => query.offered.ours && (local_gpu || remote_gpu),
                PathKind::CudaIpc if remote_gpu => query.offered.share.is_some_and(ShareForm::is_of_gpus),
                PathKind::CudaIpc => local_gpu && peer.ipc && peer.staging,
                PathKind::SharedMemory => !remote_gpu && query.offered.share == Some(ShareForm::File),
                PathKind::Direct => !local_gpu && !remote_gpu,
                PathKind::StagedOneSide => local_gpu != remote_gpu && (!remote_gpu || peer.staging),
                PathKind::StagedBothSides => local_gpu && remote_gpu && peer.staging,
                _ => local_gpu || remote_gpu,
            };
            prop_assert!(suits, "{}", plan);
            let leaves = !matches!(path.kind, PathKind::SameProcessCopy | PathKind::Local(_));
            prop_assert_eq!(leaves, !query.offered.ours);
        }
    }

    #[test]
    fn without_a_policy_the_least_estimate_is_taken(
        query in any_question(), here in any_here(), peer in any_peer(), bytes in 0u64..1 << 40,
    ) {
        let plan = plan(query, &here, &peer);
        let least = plan.available.iter().map(|path| path.cost.estimate(1, bytes)).min();
        let chosen = plan.choose(bytes, &PathHistory::new()).ok();
        prop_assert_eq!(chosen.map(|chosen| chosen.estimate), least);
    }

    #[test]
    fn the_policy_is_kept(
        query in any_question(), here in any_here(), peer in any_peer(), kind in kind(),
        medium in proptest::sample::select(Medium::ALL.to_vec()), floor in 0.0..500.0f64,
    ) {
        let chosen = |policy| {
            let plan = plan(PathQuery { policy, ..query }, &here, &peer);
            plan.choose(LARGE, &PathHistory::new()).map(|c| c.path.clone())
        };
        let auto = plan(query, &here, &peer);
        let available = auto.available.iter().find(|path| path.kind == kind);
        match chosen(PathPolicy::auto().require(kind)) {
            Ok(path) => prop_assert_eq!(path.kind, kind),
            Err(TransportError::NoPath { rejected }) => {
                prop_assert!(available.is_none());
                prop_assert_eq!(rejected[0].kind(), kind);
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
        if let Ok(path) = chosen(PathPolicy::auto().prefer(kind)) {
            prop_assert_eq!(path.kind == kind, available.is_some());
        }
        if let Ok(path) = chosen(PathPolicy::auto().forbid(kind)) {
            prop_assert_ne!(path.kind, kind);
        }
        if let Ok(path) = chosen(PathPolicy::auto().forbid_medium(medium)) {
            prop_assert_ne!(path.medium, Some(medium));
        }
        if let Ok(path) = chosen(PathPolicy::auto().at_least_gbps(floor)) {
            prop_assert!(path.cost.gbps >= floor);
        }
    }

    #[test]
    fn less_enables_no_more(
        query in any_question(), here in any_here(), peer in any_peer(), which in 0..8usize,
    ) {
        let (mut less, mut poorer, mut bare) = (here.clone(), peer.clone(), query);
        match which {
            0 => less.ucx.shared_memory = false,
            1 => less.ucx.cuda_ipc = false,
            2 => less.ucx.tcp = false,
            3 => less.rdma = Err("gone".into()),
            4 => less.cuda = Err("gone".into()),
            5 => poorer.staging = false,
            6 => poorer.gpus.iter_mut().for_each(|gpu| gpu.gpu_direct = false),
            _ => bare.offered.share = None,
        }
        let kinds = |plan: PathPlan| plan.available.iter().map(|p| p.kind).collect::<HashSet<_>>();
        let (more, less) = (kinds(plan(query, &here, &peer)), kinds(plan(bare, &less, &poorer)));
        prop_assert!(less.is_subset(&more), "{:?} {:?}", less, more);
    }

    #[test]
    fn trying_one_after_the_other_follows_the_ranking_and_ends(
        query in any_question(), here in any_here(), peer in any_peer(),
        bytes in 0u64..1 << 30, in_cooldown in proptest::collection::vec(kind(), 0..4),
    ) {
        let plan = plan(query, &here, &peer);
        let mut history = PathHistory::new();
        for kind in &in_cooldown {
            history.note_cooldown(*kind, "lately");
        }
        let ranked: Vec<_> = plan.rank(bytes, &history).paths().map(|(path, _)| path.kind).collect();
        prop_assert_eq!(ranked.len(), plan.available.len());
        for kind in &ranked {
            let chosen = plan.choose(bytes, &history).unwrap().path.kind;
            prop_assert_eq!(chosen, *kind);
            history.note_tried(chosen, "tried");
        }
        match plan.choose(bytes, &history) {
            Err(TransportError::NoPath { rejected }) => {
                let tried = rejected.iter().filter(|r| r.reason() == "tried").count();
                prop_assert_eq!(tried, ranked.len());
            }
            other => prop_assert!(false, "{:?}", other),
        }
        // Those that failed lately come last.
        let is_cooling: Vec<_> = ranked.iter().map(|kind| in_cooldown.contains(kind)).collect();
        prop_assert!(is_cooling.is_sorted());
    }
}

#[test]
fn a_slow_path_is_left_for_one_that_is_better_and_the_path_of_the_last_operation_kept_for_one_that_is_not()
 {
    let query = PathQuery { offered: shared(ShareForm::CudaIpc), ..ask(MemoryKind::Gpu(0), ONE) };
    let plan = plan(query, &here(), &neighbour());
    let mut history = PathHistory::new();
    let taken = |history: &PathHistory| plan.choose(LARGE, history).unwrap().kind();
    assert_eq!(taken(&history), PathKind::CudaIpc);
    history.note_slow(PathKind::CudaIpc, 100.0);
    assert_eq!(taken(&history), PathKind::EngineStaged);
    let rejected = plan.alternatives(PathKind::EngineStaged, LARGE, &history);
    assert!(rejected[0].reason().contains("100.0 times its estimate"), "{:?}", rejected[0]);
    assert!(plan.rank(LARGE, &history).to_string().contains("took 100.0 times its estimate"));
    // The engine is estimated at 1.68 times CUDA IPC: where it takes less than 1.3 times as long, it is kept.
    let slow = |factor| {
        let mut history = PathHistory::new();
        history.note_slow(PathKind::CudaIpc, factor);
        history.note_current(PathKind::EngineStaged);
        taken(&history)
    };
    assert_eq!(slow(1.4), PathKind::EngineStaged);
    assert_eq!(slow(1.2), PathKind::CudaIpc);
    // What failed lately or is not preferred is not kept for that.
    let mut failed = PathHistory::new();
    failed.note_current(PathKind::CudaIpc);
    failed.note_cooldown(PathKind::CudaIpc, "the driver refused the handle");
    assert_eq!(taken(&failed), PathKind::EngineStaged);
}

#[test]
fn the_engine_s_copies_through_the_host_give_way_to_staging_that_is_a_little_faster() {
    let plan = plan(ask(MemoryKind::Gpu(0), ONE), &here(), &neighbour());
    let taken = |factor: f64| {
        let mut history = PathHistory::new();
        history.note_slow(PathKind::StagedBothSides, factor);
        history.note_current(PathKind::EngineStaged);
        plan.choose(LARGE, &history).unwrap().kind()
    };
    let estimate = |kind| {
        let path = plan.available.iter().find(|path| path.kind == kind).unwrap();
        path.cost.estimate(1, LARGE).as_secs_f64()
    };
    let even = estimate(PathKind::EngineStaged) / estimate(PathKind::StagedBothSides);
    assert_eq!(taken(even / 1.1), PathKind::StagedBothSides);
    assert_eq!(taken(even * 1.1), PathKind::EngineStaged);
}
