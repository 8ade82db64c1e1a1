//! The wrapper on libvirt's test driver, which lives in this process. Each test has a host of its own: the driver keeps
//! one state for each `test:///FILE` connection.

use std::time::Duration;

use tempfile::NamedTempFile;
use uuid::Uuid;

use super::*;

const MARK: &str = "https://kubevmm.io/libvirt/1";
const HOST: &str = "<node><cpu><mhz>2000</mhz><model>x86_64</model><nodes>1</nodes><sockets>1</sockets><cores>4</cores>\
    <threads>2</threads><active>8</active></cpu><memory>8388608</memory></node>";

fn domain_xml(name: &str, uuid: Uuid) -> String {
    format!(
        "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory><vcpu>2</vcpu>\
         <os><type arch='x86_64'>hvm</type></os></domain>"
    )
}

struct Host {
    connection: Connection,
    events: Events,
    _file: NamedTempFile,
}

async fn host() -> Host {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), HOST).unwrap();
    let uri = format!("test://{}", file.path().display());
    let (connection, events) = Connection::open(&uri, Options::default()).await.unwrap();
    Host { connection, events, _file: file }
}

impl Host {
    async fn define(&self, name: &str) -> Domain {
        self.connection.define_domain(name, &domain_xml(name, Uuid::new_v4())).await.unwrap()
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await.unwrap().unwrap()
    }

    async fn lifecycle(&mut self, of: &Domain) -> Lifecycle {
        match self.event().await {
            Event::Domain { domain, event: DomainEvent::Lifecycle(lifecycle) } => {
                assert_eq!((domain.uuid, domain.name.as_str()), (of.uuid(), of.name()));
                lifecycle
            }
            other => panic!("not a lifecycle event: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_domain_lives_and_its_events_tell_it() {
    let mut host = host().await;
    let uuid = Uuid::new_v4();
    let domain = host.connection.define_domain("shop.web", &domain_xml("shop.web", uuid)).await.unwrap();
    assert_eq!((domain.uuid(), domain.name()), (uuid, "shop.web"));
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Defined(DefinedDetail::Added));
    assert!(!domain.is_active().await.unwrap());
    assert!(domain.is_persistent().await.unwrap());
    assert_eq!(domain.id().await.unwrap(), None);
    assert!(matches!(domain.state().await.unwrap(), DomainState::Shutoff(_)));

    domain.create(StartOptions::default()).await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Started(StartedDetail::Booted));
    assert_eq!(domain.state().await.unwrap(), DomainState::Running(RunningReason::Booted));
    assert!(domain.state().await.unwrap().has_process());
    assert!(domain.id().await.unwrap().is_some());
    let info = domain.info().await.unwrap();
    assert_eq!((info.max_memory_bytes, info.vcpus), (64 << 20, 2));

    domain.suspend().await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Suspended(SuspendedDetail::Paused));
    assert_eq!(domain.state().await.unwrap(), DomainState::Paused(PausedReason::User));
    domain.resume().await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Resumed(ResumedDetail::Unpaused));

    domain.shutdown(GuestRequest::Default).await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Stopped(StoppedDetail::Shutdown));
    assert_eq!(domain.state().await.unwrap(), DomainState::Shutoff(ShutoffReason::Shutdown));

    domain.create(StartOptions::default()).await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Started(StartedDetail::Booted));
    domain.destroy(false).await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Stopped(StoppedDetail::Destroyed));

    domain.undefine(UndefineOptions::default()).await.unwrap();
    assert_eq!(host.lifecycle(&domain).await, Lifecycle::Undefined(UndefinedDetail::Removed));
    assert!(host.connection.lookup_domain(uuid).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_there_is_none_and_its_calls_say_so() {
    let host = host().await;
    let connection = &host.connection;
    let nobody = Uuid::new_v4();
    assert!(connection.lookup_domain(nobody).await.unwrap().is_none());
    assert!(connection.lookup_domain_by_name("nobody").await.unwrap().is_none());
    assert!(connection.lookup_network(nobody).await.unwrap().is_none());
    assert!(connection.lookup_network_by_name("nobody").await.unwrap().is_none());
    assert!(connection.lookup_storage_pool(nobody).await.unwrap().is_none());
    assert!(connection.lookup_storage_pool_by_name("nobody").await.unwrap().is_none());
    assert!(connection.lookup_volume_by_path("/nowhere").await.unwrap().is_none());

    let domain = host.define("gone").await;
    domain.undefine(UndefineOptions::default()).await.unwrap();
    let error = domain.create(StartOptions::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::NoDomain);
    assert!(error.is_not_found());
    assert_eq!((error.operation, error.object.as_str()), ("virDomainCreateWithFlags", "domain gone"));
}

#[tokio::test]
async fn errors_are_typed_and_name_call_and_object() {
    let host = host().await;
    let domain = host.define("web").await;
    let error = domain.destroy(false).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::OperationInvalid);
    assert!(error.to_string().starts_with("virDomainDestroyFlags on domain web: "), "{error}");
    let error = domain.create(StartOptions { paused: true, ..StartOptions::default() }).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument, "this driver does not know the flag");

    let error = host.connection.define_domain("bad", "<domain type='test'><name>bad").await.unwrap_err();
    assert_eq!((error.code, error.object.as_str()), (ErrorCode::XmlInvalid, "domain bad"));
    let error = host.connection.lookup_domain_by_name("a\0b").await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    let error = domain.guest_info().await.unwrap_err();
    assert_ne!(error.code, ErrorCode::ConnectionLost);
    assert!(host.connection.is_alive());
}

#[tokio::test]
async fn metadata_is_kept_beside_that_of_others() {
    let host = host().await;
    let domain = host.define("web").await;
    assert_eq!(domain.metadata(MARK, Impact::Config).await.unwrap(), None);
    let other = "https://example.org/";
    domain.set_metadata(other, "o", Some("<x/>"), Impact::Config).await.unwrap();
    domain.set_metadata(MARK, "kubevmm", Some("<vm epoch='1'/>"), Impact::Config).await.unwrap();
    let mark = domain.metadata(MARK, Impact::Config).await.unwrap().unwrap();
    assert!(mark.contains("epoch=\"1\"") || mark.contains("epoch='1'"), "{mark}");
    assert!(domain.xml(XmlOptions { inactive: true, secure: false }).await.unwrap().contains(MARK));
    domain.set_metadata(MARK, "kubevmm", None, Impact::Config).await.unwrap();
    assert_eq!(domain.metadata(MARK, Impact::Config).await.unwrap(), None);
    assert!(domain.metadata(other, Impact::Config).await.unwrap().is_some());
}

#[tokio::test]
async fn autostart_is_read_and_set() {
    let host = host().await;
    let domain = host.define("web").await;
    assert!(!domain.autostart().await.unwrap());
    domain.set_autostart(true).await.unwrap();
    assert!(domain.autostart().await.unwrap());
}

#[tokio::test]
async fn domains_are_listed_by_what_they_are() {
    let host = host().await;
    for name in ["a", "b", "c"] {
        host.define(name).await;
    }
    let b = host.connection.lookup_domain_by_name("b").await.unwrap().unwrap();
    b.create(StartOptions::default()).await.unwrap();
    let list = async |filter| {
        let domains = host.connection.list_domains(filter).await.unwrap();
        let mut names: Vec<_> = domains.iter().map(|domain| domain.name().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(list(DomainFilter::All).await, ["a", "b", "c"]);
    assert_eq!(list(DomainFilter::Active).await, ["b"]);
    assert_eq!(list(DomainFilter::Inactive).await, ["a", "c"]);
    assert_eq!(list(DomainFilter::Persistent).await, ["a", "b", "c"]);
    assert!(list(DomainFilter::Transient).await.is_empty());
}

#[tokio::test]
async fn a_network_lives_and_its_events_tell_it() {
    let mut host = host().await;
    let xml =
        "<network><name>lan</name><bridge name='virbr9'/><ip address='10.9.0.1' netmask='255.255.255.0'/></network>";
    let network = host.connection.define_network("lan", xml).await.unwrap();
    network.create().await.unwrap();
    assert!(network.is_active().await.unwrap() && network.is_persistent().await.unwrap());
    assert_eq!(network.bridge_name().await.unwrap(), "virbr9");
    network.set_autostart(true).await.unwrap();
    assert!(network.autostart().await.unwrap());
    assert!(network.xml(false).await.unwrap().contains("10.9.0.1"));
    network.destroy().await.unwrap();
    assert_eq!(host.connection.list_networks().await.unwrap().len(), 1);
    network.undefine().await.unwrap();
    assert!(host.connection.list_networks().await.unwrap().is_empty());
    for expected in [NetworkEvent::Defined, NetworkEvent::Started, NetworkEvent::Stopped, NetworkEvent::Undefined] {
        match host.event().await {
            Event::Network { network: seen, event } => {
                assert_eq!((seen.uuid, seen.name.as_str(), event), (network.uuid(), "lan", expected));
            }
            other => panic!("not a network event: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_pool_and_its_volumes_live_and_events_tell_of_the_pool() {
    let mut host = host().await;
    let xml = "<pool type='dir'><name>fast</name><target><path>/nowhere/fast</path></target></pool>";
    let pool = host.connection.define_storage_pool("fast", xml).await.unwrap();
    pool.build().await.unwrap();
    pool.create().await.unwrap();
    pool.refresh().await.unwrap();
    assert!(pool.is_active().await.unwrap() && pool.is_persistent().await.unwrap());
    pool.set_autostart(true).await.unwrap();
    assert!(pool.autostart().await.unwrap());
    let info = pool.info().await.unwrap();
    assert_eq!(info.state, StoragePoolState::Running);
    assert_eq!(info.capacity_bytes, info.allocation_bytes + info.available_bytes);
    assert!(pool.xml(false).await.unwrap().contains("/nowhere/fast"));

    let xml = |name| format!("<volume><name>{name}</name><capacity unit='MiB'>8</capacity></volume>");
    let volume = pool.create_volume("root.img", &xml("root.img")).await.unwrap();
    assert_eq!(volume.path().await.unwrap(), "/nowhere/fast/root.img");
    assert_eq!(volume.info().await.unwrap().capacity_bytes, 8 << 20);
    assert_eq!(volume.info().await.unwrap().kind, StorageVolType::File);
    let error = pool.create_volume("root.img", &xml("root.img")).await.unwrap_err();
    assert_eq!(
        (error.code, error.object.as_str()),
        (ErrorCode::OperationFailed, "volume root.img in storage pool fast")
    );
    let clone = pool.create_volume_from("copy.img", &xml("copy.img"), &volume).await.unwrap();
    assert_eq!(clone.storage_pool().await.unwrap().uuid(), pool.uuid());
    assert!(clone.xml().await.unwrap().contains("copy.img"));
    assert_eq!(pool.list_volumes().await.unwrap().len(), 2);
    assert_eq!(pool.lookup_volume("copy.img").await.unwrap().unwrap().key(), clone.key());
    let by_path = host.connection.lookup_volume_by_path("/nowhere/fast/copy.img").await.unwrap().unwrap();
    assert_eq!(by_path.name(), "copy.img");
    clone.delete().await.unwrap();
    assert!(pool.lookup_volume("copy.img").await.unwrap().is_none());
    let error = volume.upload(0, 0).await.map(drop).unwrap_err();
    assert_eq!(error.code, ErrorCode::Unsupported);

    pool.destroy().await.unwrap();
    pool.undefine().await.unwrap();
    let lifecycle = StoragePoolEvent::Lifecycle;
    for expected in [
        lifecycle(StoragePoolLifecycle::Defined),
        lifecycle(StoragePoolLifecycle::Created),
        lifecycle(StoragePoolLifecycle::Started),
        StoragePoolEvent::Refresh,
        lifecycle(StoragePoolLifecycle::Stopped),
        lifecycle(StoragePoolLifecycle::Undefined),
    ] {
        match host.event().await {
            Event::StoragePool { pool: seen, event } => assert_eq!((seen.uuid, event), (pool.uuid(), expected)),
            other => panic!("not a storage pool event: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_host_describes_itself() {
    let host = host().await;
    let connection = &host.connection;
    assert_eq!(connection.hypervisor_type().await.unwrap(), "TEST");
    assert!(connection.lib_version().await.unwrap().major >= 9);
    assert!(connection.uri().await.unwrap().starts_with("test://"));
    assert!(!connection.hostname().await.unwrap().is_empty());
    assert!(connection.capabilities().await.unwrap().contains("<capabilities>"));
    let node = connection.node_info().await.unwrap();
    assert_eq!((node.model.as_str(), node.memory_bytes, node.cpus, node.threads), ("x86_64", 8 << 30, 8, 2));
    connection.hypervisor_version().await.unwrap();
}

#[tokio::test]
async fn leases_of_the_test_driver_are_copied_with_their_addresses() {
    let host = host().await;
    let xml = "<network><name>lan</name><ip address='192.168.9.1' netmask='255.255.255.0'/></network>";
    host.connection.define_network("lan", xml).await.unwrap().create().await.unwrap();
    let xml = domain_xml("web", Uuid::new_v4()).replace(
        "</domain>",
        "<devices><interface type='network'><mac address='52:54:00:AA:bb:01'/><source network='lan'/></interface>\
         </devices></domain>",
    );
    let domain = host.connection.define_domain("web", &xml).await.unwrap();
    domain.create(StartOptions::default()).await.unwrap();
    let interfaces = domain.interface_addresses(AddressSource::Lease).await.unwrap();
    assert_eq!(interfaces.len(), 1);
    assert_eq!(interfaces[0].mac.as_deref(), Some("52:54:00:aa:bb:01"));
    assert!(interfaces[0].addresses[0].address.to_string().starts_with("192.168.9."), "{interfaces:?}");
}

#[tokio::test]
async fn many_calls_at_once_are_answered() {
    let host = host().await;
    let domain = host.define("web").await;
    let calls = (0..200).map(|_| domain.state());
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn handles_outlive_the_connection_value() {
    let host = host().await;
    let domain = host.define("web").await;
    drop(host.connection);
    assert_eq!(domain.xml(XmlOptions::default()).await.unwrap().matches("<name>web</name>").count(), 1);
}

#[tokio::test]
async fn the_manager_connects_and_says_so() {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), HOST).unwrap();
    let (hypervisor, mut events) =
        Hypervisor::start(Address::Uri(format!("test://{}", file.path().display())), Options::default());
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap();
    assert_eq!(event, Some(Event::Connected { generation: 1 }));
    assert_eq!(*hypervisor.state().borrow(), LinkState::Connected { generation: 1 });
    assert_eq!(hypervisor.connection().unwrap().hypervisor_type().await.unwrap(), "TEST");
    drop(hypervisor);
    let end = tokio::time::timeout(Duration::from_secs(10), async { while events.recv().await.is_some() {} }).await;
    assert_eq!(end, Ok(()));
}

#[tokio::test]
async fn the_manager_tries_until_there_is_something_to_connect_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("host.xml");
    let options = Options { reconnect_min: Duration::from_millis(10), ..Options::default() };
    let (hypervisor, mut events) = Hypervisor::start(Address::Uri(format!("test://{}", path.display())), options);
    let mut state = hypervisor.state();
    let failed = |state: &LinkState| matches!(state, LinkState::Disconnected { .. });
    tokio::time::timeout(Duration::from_secs(10), state.wait_for(failed)).await.unwrap().unwrap();
    let error = hypervisor.connection().map(drop).unwrap_err();
    assert!(error.is_connection_lost());
    std::fs::write(&path, HOST).unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap();
    assert_eq!(event, Some(Event::Connected { generation: 1 }));
}

#[tokio::test]
async fn devices_of_the_host_are_found_by_name() {
    // Only this one of the driver's hosts has devices.
    let (connection, _events) = Connection::open("test:///default", Options::default()).await.unwrap();
    let computer = connection.lookup_node_device("computer").await.unwrap().unwrap();
    assert_eq!(computer.name(), "computer");
    assert!(computer.xml().await.unwrap().contains("<name>computer</name>"));
    assert!(connection.lookup_node_device("pci_0000_00_00_0").await.unwrap().is_none());
    assert!(connection.list_guest_devices().await.unwrap().is_empty(), "a computer is for no guest");
}
