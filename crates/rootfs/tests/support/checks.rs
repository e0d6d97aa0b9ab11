//! What has to hold for any bytes at all: of a frame, of option words, of an OCI config. The fuzz tests and the fuzz targets
//! call these with bytes that nobody has chosen.

use rootfs::error::Error;
use rootfs::oci::{ReadOptions, read, write};
use rootfs::options::parse;
use rootfs::plan::Plan;
use rootfs::protocol::{self, Hello, Kind, Payload, PayloadRest, Report, Spare, Start, TakenDown};
use rootfs::spec::{Root, RootfsSpec, UserNamespace};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A message: its frame is taken off if it has one, and the rest is decoded as everything that is ever in one.
pub fn frame(bytes: &[u8]) {
    let whole = protocol::parse_frame(bytes, Some(0)).map_or(&[][..], |(_, _, body)| body);
    assert!(whole.len() <= protocol::MAX_BODY);
    for body in [whole, bytes] {
        round::<Payload>(body);
        round::<Start>(body);
        round::<Hello>(body);
        round::<Spare>(body);
        round::<Report>(body);
        round::<TakenDown>(body);
        round::<Error>(body);
        protocol::build_of_hello(body);
    }
}

fn round<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(value) = protocol::decode::<T>(bytes) {
        let again: T = protocol::decode(&protocol::encode(&value)).expect("what was encoded is decoded");
        assert_eq!(again, value);
    }
}

/// Bodies of messages as they are sent; that of a request is made of an OCI config.
pub fn bodies(config: &[u8]) -> Vec<Vec<u8>> {
    let config = read(config, &options()).unwrap();
    let rest = PayloadRest {
        process: config.process.clone(),
        usual: config.process,
        verify: true,
        report_steps: true,
        level: None,
        privileged: true,
        user: None,
    };
    let mut spec = config.rootfs;
    spec.namespaces.user = UserNamespace::None;
    let plan = Plan::new(&spec).unwrap();
    let hello = Hello { pid: 1, release: "0".into(), uid: 0, gid: 0, groups: vec![1, 2], capabilities: 7 };
    vec![
        protocol::encode(&Payload { plan, template: None, rest }),
        protocol::encode(&hello),
        protocol::encode(&Report::default()),
        protocol::encode(&TakenDown::default()),
        Vec::new(),
    ]
}

/// Each body in frames of several kinds.
pub fn frames(bodies: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let kinds = [Kind::Hello, Kind::Start, Kind::Spawn, Kind::Failed, Kind::Begin];
    bodies.iter().flat_map(|body| kinds.map(|kind| protocol::frame_bytes(kind, 1, body, 0))).collect()
}

/// Option words with commas between them.
pub fn option_words(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.trim_end().split(',').collect();
    let Ok(parsed) = parse(&words) else { return };
    let attributes = &parsed.attributes;
    assert_eq!(attributes.set & attributes.clear, 0, "a flag is set and cleared");
    assert_eq!(attributes.set_recursive & attributes.clear_recursive, 0, "a flag is set and cleared");
    // What is no word of ours goes to the filesystem, each of them.
    let others = words.iter().filter(|word| rootfs::options::find(word).is_none()).count();
    assert_eq!(parsed.data.len(), others);
}

fn options() -> ReadOptions {
    ReadOptions { ignore: Vec::new(), expect_root: true, bundle: "/bundle".into(), has_bundle: true }
}

/// The text of an OCI config: it is planned, written and read again.
pub fn config(text: &[u8]) {
    let Ok(config) = read(text, &options()) else { return };
    let _ = Plan::new(&config.rootfs);
    let again = |rootfs: &RootfsSpec| {
        let written = write(rootfs, config.process.as_ref()).ok()?;
        Some(read(written.to_string().as_bytes(), &options()).expect("what is written is read"))
    };
    if matches!(config.rootfs.root, Root::Directory(_))
        && let Some(first) = again(&config.rootfs)
        && let Some(second) = again(&first.rootfs)
    {
        assert_eq!(second.rootfs, first.rootfs);
    }
}
