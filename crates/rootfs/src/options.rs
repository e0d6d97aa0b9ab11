//! Mount option words: one table, read by the parser, the documentation and the tests.
//!
//! Words are taken from left to right and the last one wins. A word that is not in the table is an option of the
//! filesystem itself. Sources: OCI runtime-spec `config.md` (mounts), mount(8), `mount_setattr(2)`, `fsopen(2)`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};

/// `MOUNT_ATTR_*` of `mount_setattr(2)`.
pub mod attr {
    /// The mount can't be written through.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id and file capabilities have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes can't be opened.
    pub const NODEV: u64 = 0x4;
    /// Programs can't be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The mask of the access-time modes, of which exactly one is set.
    pub const ATIME: u64 = 0x70;
    /// Access times follow modification times.
    pub const RELATIME: u64 = 0x0;
    /// Access times are never written.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always written.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are never written.
    pub const NODIRATIME: u64 = 0x80;
    /// An idmapped mount.
    pub const IDMAP: u64 = 0x0010_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
    /// The flags that a bind with flag words sets or clears exactly as asked, as `mount --bind -o` does.
    pub const PLAIN: u64 = RDONLY | NOSUID | NODEV | NOEXEC;
    /// The same with the one that Linux 5.14 has added to what `mount_setattr(2)` takes.
    pub const EXACT: u64 = PLAIN | NOSYMFOLLOW;
}

/// How mount and unmount events pass between a mount and its peers; `mount_namespaces(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PropagationType {
    /// Events neither arrive nor leave.
    Private,
    /// Events pass in both directions.
    Shared,
    /// Events arrive and don't leave.
    Slave,
    /// As private, and it can't be bound.
    Unbindable,
}

/// A propagation type, of one mount or of all below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Propagation {
    /// The type.
    pub kind: PropagationType,
    /// Whether mounts below get it too.
    pub recursive: bool,
}

impl Propagation {
    /// `rslave`: what the root gets when nothing is said.
    pub const RSLAVE: Self = Self { kind: PropagationType::Slave, recursive: true };
    /// `rprivate`: what a bind of the builder gets when nothing is said.
    pub const RPRIVATE: Self = Self { kind: PropagationType::Private, recursive: true };

    /// The OCI word, such as `rslave`.
    pub const fn name(self) -> &'static str {
        match (self.recursive, self.kind) {
            (false, PropagationType::Private) => "private",
            (false, PropagationType::Shared) => "shared",
            (false, PropagationType::Slave) => "slave",
            (false, PropagationType::Unbindable) => "unbindable",
            (true, PropagationType::Private) => "rprivate",
            (true, PropagationType::Shared) => "rshared",
            (true, PropagationType::Slave) => "rslave",
            (true, PropagationType::Unbindable) => "runbindable",
        }
    }

    /// The propagation that an OCI word names.
    pub fn from_name(name: &str) -> Option<Self> {
        match find(name).map(|word| word.effect) {
            Some(Effect::Propagation(kind, recursive)) => Some(Self { kind, recursive }),
            _ => None,
        }
    }
}

/// How events pass to and from one mount, as the kernel has it: a slave may share what it receives, and a slave of nobody is
/// private.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct PropagationState {
    /// Events pass to peers, if there are any.
    pub shared: bool,
    /// There are: the mount is a copy of a shared one.
    pub peers: bool,
    /// It has a master.
    pub slave: bool,
    /// It can't be bound.
    pub unbindable: bool,
}

impl PropagationState {
    /// What a propagation type makes of it.
    #[must_use]
    pub fn changed(self, kind: PropagationType) -> Self {
        match kind {
            PropagationType::Private => Self::default(),
            PropagationType::Shared => Self { shared: true, unbindable: false, ..self },
            // Only what has received events before can go on to receive them: from a peer, or from its own master.
            PropagationType::Slave => {
                Self { shared: false, peers: false, slave: self.peers || self.slave, ..self }
            }
            PropagationType::Unbindable => Self { unbindable: true, ..Self::default() },
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match (self.shared, self.slave, self.unbindable) {
            (_, _, true) => "unbindable",
            (true, true, _) => "shared,slave",
            (true, false, _) => "shared",
            (false, true, _) => "slave",
            (false, false, _) => "private",
        }
    }
}

/// What one word does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, but it is a word that must be accepted.
    Nothing,
    /// Sets an attribute of the mount.
    Set(u64),
    /// Clears an attribute of the mount.
    Clear(u64),
    /// Chooses the access-time mode of the mount.
    Atime(u64),
    /// Sets an attribute of the mount and of all below it.
    SetRecursive(u64),
    /// Clears an attribute of the mount and of all below it.
    ClearRecursive(u64),
    /// Chooses the access-time mode of the mount and of all below it.
    AtimeRecursive(u64),
    /// A flag of the superblock, with its `fsconfig` key.
    Superblock(&'static str),
    /// A flag of the superblock that only mount(2) takes.
    Iversion(&'static str),
    /// Changes the mount that is there already.
    Remount,
    /// A bind; whether it brings mounts below the source along.
    Bind(bool),
    /// Propagation; whether of all below too.
    Propagation(PropagationType, bool),
    /// Fills a tmpfs with what the root has at that place.
    CopyUp,
    /// An idmapped mount; whether mounts below are mapped too.
    IdMap(bool),
    /// The destination may not pass through a symbolic link, and the like: words of crun.
    Nofollow(Nofollow),
}

/// What is done about symbolic links that a source or a destination ends in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// A source that is a symbolic link is made anew in the root, and nothing is mounted.
    pub copy: bool,
    /// A source that is a symbolic link is bound itself.
    pub source: bool,
    /// A destination that is a symbolic link is mounted on itself.
    pub destination: bool,
}

impl Links {
    /// The words for it.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        WORDS.iter().filter_map(move |word| match word.effect {
            Effect::Nofollow(Nofollow::CopySymlink) if self.copy => Some(word.name),
            Effect::Nofollow(Nofollow::Source) if self.source => Some(word.name),
            Effect::Nofollow(Nofollow::Destination) if self.destination => Some(word.name),
            _ => None,
        })
    }
}

/// crun's words about symbolic links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nofollow {
    /// A source that is a symbolic link is recreated as one.
    CopySymlink,
    /// A source that is a symbolic link is bound itself.
    Source,
    /// A destination that is a symbolic link is not followed.
    Destination,
}

/// A word and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// As it is written in `options`.
    pub name: &'static str,
    /// What it does.
    pub effect: Effect,
}

const fn word(name: &'static str, effect: Effect) -> Word {
    Word { name, effect }
}

/// The flag that has the kernel count the changes of each inode.
pub const IVERSION: &str = "iversion";

/// Every word that has a meaning of its own.
pub const WORDS: &[Word] = {
    use Effect::{
        Atime, AtimeRecursive, Bind, Clear, ClearRecursive, CopyUp, IdMap, Iversion, Nothing, Set,
        SetRecursive, Superblock,
    };
    use PropagationType::{Private, Shared, Slave, Unbindable};
    &[
        word("defaults", Nothing),
        word("silent", Nothing),
        word("loud", Nothing),
        word("ro", Set(attr::RDONLY)),
        word("rw", Clear(attr::RDONLY)),
        word("nosuid", Set(attr::NOSUID)),
        word("suid", Clear(attr::NOSUID)),
        word("nodev", Set(attr::NODEV)),
        word("dev", Clear(attr::NODEV)),
        word("noexec", Set(attr::NOEXEC)),
        word("exec", Clear(attr::NOEXEC)),
        word("nosymfollow", Set(attr::NOSYMFOLLOW)),
        word("symfollow", Clear(attr::NOSYMFOLLOW)),
        word("nodiratime", Set(attr::NODIRATIME)),
        word("diratime", Clear(attr::NODIRATIME)),
        word("relatime", Atime(attr::RELATIME)),
        word("norelatime", Atime(attr::RELATIME)),
        word("noatime", Atime(attr::NOATIME)),
        word("atime", Atime(attr::RELATIME)),
        word("strictatime", Atime(attr::STRICTATIME)),
        word("nostrictatime", Atime(attr::RELATIME)),
        word("rro", SetRecursive(attr::RDONLY)),
        word("rrw", ClearRecursive(attr::RDONLY)),
        word("rnosuid", SetRecursive(attr::NOSUID)),
        word("rsuid", ClearRecursive(attr::NOSUID)),
        word("rnodev", SetRecursive(attr::NODEV)),
        word("rdev", ClearRecursive(attr::NODEV)),
        word("rnoexec", SetRecursive(attr::NOEXEC)),
        word("rexec", ClearRecursive(attr::NOEXEC)),
        word("rnosymfollow", SetRecursive(attr::NOSYMFOLLOW)),
        word("rsymfollow", ClearRecursive(attr::NOSYMFOLLOW)),
        word("rnodiratime", SetRecursive(attr::NODIRATIME)),
        word("rdiratime", ClearRecursive(attr::NODIRATIME)),
        word("rrelatime", AtimeRecursive(attr::RELATIME)),
        word("rnorelatime", AtimeRecursive(attr::RELATIME)),
        word("rnoatime", AtimeRecursive(attr::NOATIME)),
        word("ratime", AtimeRecursive(attr::RELATIME)),
        word("rstrictatime", AtimeRecursive(attr::STRICTATIME)),
        word("rnostrictatime", AtimeRecursive(attr::RELATIME)),
        word("sync", Superblock("sync")),
        word("async", Superblock("async")),
        word("dirsync", Superblock("dirsync")),
        word("lazytime", Superblock("lazytime")),
        word("nolazytime", Superblock("nolazytime")),
        word("mand", Superblock("mand")),
        word("nomand", Superblock("nomand")),
        word("iversion", Iversion(IVERSION)),
        word("noiversion", Iversion("noiversion")),
        word("remount", Effect::Remount),
        word("bind", Bind(false)),
        word("rbind", Bind(true)),
        word("private", Effect::Propagation(Private, false)),
        word("rprivate", Effect::Propagation(Private, true)),
        word("shared", Effect::Propagation(Shared, false)),
        word("rshared", Effect::Propagation(Shared, true)),
        word("slave", Effect::Propagation(Slave, false)),
        word("rslave", Effect::Propagation(Slave, true)),
        word("unbindable", Effect::Propagation(Unbindable, false)),
        word("runbindable", Effect::Propagation(Unbindable, true)),
        word("tmpcopyup", CopyUp),
        word("idmap", IdMap(false)),
        word("ridmap", IdMap(true)),
        word("copy-symlink", Effect::Nofollow(Nofollow::CopySymlink)),
        word("src-nofollow", Effect::Nofollow(Nofollow::Source)),
        word("dest-nofollow", Effect::Nofollow(Nofollow::Destination)),
    ]
};

/// Options that any filesystem may have; `mount(8)`.
const COMMON_OPTIONS: &[&str] =
    &["acl", "noacl", "context", "fscontext", "defcontext", "rootcontext", "seclabel"];

/// The options of the filesystems that every container has, as of Linux 6.18. Whatever else is asked for is given to the
/// kernel all the same: it knows.
const FILESYSTEM_OPTIONS: &[(&str, &[&str])] = &[
    (
        "tmpfs",
        &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "huge",
            "mpol",
            "inode32",
            "inode64",
            "noswap",
            "quota",
            "usrquota",
            "grpquota",
            "usrquota_block_hardlimit",
            "usrquota_inode_hardlimit",
            "grpquota_block_hardlimit",
            "grpquota_inode_hardlimit",
            "casefold",
            "strict_encoding",
        ],
    ),
    ("ramfs", &["mode"]),
    ("devpts", &["uid", "gid", "mode", "ptmxmode", "max", "newinstance"]),
    ("proc", &["gid", "hidepid", "subset", "pidns"]),
    (
        "overlay",
        &[
            "lowerdir",
            "lowerdir+",
            "upperdir",
            "workdir",
            "default_permissions",
            "redirect_dir",
            "index",
            "uuid",
            "nfs_export",
            "userxattr",
            "xino",
            "metacopy",
            "verity",
            "volatile",
            "fsync",
        ],
    ),
];

/// An option of a filesystem as a word.
pub fn option_text(key: &str, value: Option<&str>) -> String {
    value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"))
}

/// Whether an option is known as one of a filesystem; of any that is known, where the type isn't said.
pub fn is_known_option(fstype: Option<&str>, key: &str) -> bool {
    let mut own = FILESYSTEM_OPTIONS.iter().filter(|(name, _)| fstype.is_none_or(|fstype| *name == fstype));
    COMMON_OPTIONS.contains(&key) || own.any(|(_, keys)| keys.contains(&key))
}

/// The table's entry for a word.
pub fn find(name: &str) -> Option<Word> {
    WORDS.iter().find(|word| word.name == name).copied()
}

/// What the attributes of a mount shall be. Bits are in [`attr`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Set on the mount.
    pub set: u64,
    /// Cleared on the mount because a word says so.
    pub clear: u64,
    /// The access-time mode of the mount.
    pub atime: Option<u64>,
    /// Set on the mount and all below it.
    pub set_recursive: u64,
    /// Cleared on the mount and all below it.
    pub clear_recursive: u64,
    /// The access-time mode of the mount and all below it.
    pub atime_recursive: Option<u64>,
    /// Of a bind: the result has exactly the flags of [`attr::PLAIN`] that are in `set`; the source's others go.
    pub exact: bool,
}

impl Attributes {
    /// The words for what is set, for plans and errors. Those for all below come first: what is said of the mount itself
    /// is an exception to them.
    pub fn words(&self) -> Vec<&'static str> {
        let recursive = WORDS.iter().filter(|word| match word.effect {
            Effect::SetRecursive(bit) => self.set_recursive & bit != 0,
            Effect::ClearRecursive(bit) => self.clear_recursive & bit != 0,
            Effect::AtimeRecursive(mode) => {
                self.atime_recursive == Some(mode)
                    && matches!(word.name, "rrelatime" | "rnoatime" | "rstrictatime")
            }
            _ => false,
        });
        let own = WORDS.iter().filter(|word| match word.effect {
            Effect::Set(bit) => self.set & bit != 0,
            Effect::Clear(bit) => self.clear & bit != 0,
            Effect::Atime(mode) => {
                self.atime == Some(mode) && matches!(word.name, "relatime" | "noatime" | "strictatime")
            }
            _ => false,
        });
        recursive.chain(own).map(|word| word.name).collect()
    }

    /// What attributes a mount that has these ends up with, itself and not those below it.
    pub fn applied_to(&self, before: u64) -> u64 {
        let mode = |bits: u64, mode: Option<u64>| mode.map_or(bits, |mode| bits & !attr::ATIME | mode);
        let implied = if self.exact { attr::EXACT } else { 0 };
        let below =
            mode(before & !(implied | self.clear_recursive) | self.set_recursive, self.atime_recursive);
        mode(below & !self.clear | self.set, self.atime)
    }

    /// What a mount of a new filesystem gets at once; `fsmount(2)`. With `readonly_later` it can be written until then.
    pub fn of_new_mount(&self, readonly_later: bool) -> u64 {
        let now = if readonly_later { !attr::RDONLY } else { !0 };
        self.applied_to(attr::RELATIME) & now
    }

    /// The bits that words say something about, of the mount itself.
    pub fn mentioned(&self) -> u64 {
        let atime = if self.atime.or(self.atime_recursive).is_some() { attr::ATIME } else { 0 };
        self.set | self.clear | self.set_recursive | self.clear_recursive | atime
    }

    /// Whether the top of the mount is to be read-only.
    pub fn readonly(&self) -> bool {
        self.applied_to(0) & attr::RDONLY != 0
    }
}

/// The words of one mount, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedOptions {
    /// Flags of the mount.
    pub attributes: Attributes,
    /// A bind, and whether a recursive one.
    pub bind: Option<bool>,
    /// What is mounted there already is changed.
    pub remount: bool,
    /// What is done about symbolic links.
    pub links: Links,
    /// Propagation types, each applied in this order.
    pub propagation: Vec<Propagation>,
    /// Flags of the superblock: `fsconfig` flags, and [`IVERSION`].
    pub superblock: Vec<&'static str>,
    /// A tmpfs begins with a copy of what it covers.
    pub copy_up: bool,
    /// An idmapped mount, and whether those below it are too.
    pub id_map: Option<bool>,
    /// What is left for the filesystem: key and, after a `=`, value.
    pub data: Vec<(String, Option<String>)>,
}

/// Parses the words of one mount.
///
/// Words whose meaning is known and can't be given yet are refused with [`ErrorCode::Unsupported`]: an option that is
/// accepted and ignored would be a protection that isn't there.
pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<ParsedOptions> {
    let mut parsed = ParsedOptions::default();
    for text in words {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(Error::new(ErrorCode::Spec, "a mount option is an empty string"));
        }
        if text.contains('\0') {
            return Err(Error::new(ErrorCode::Spec, "a mount option contains a NUL byte"));
        }
        let Some(word) = find(text) else {
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text, None),
            };
            parsed.data.push((key.to_owned(), value));
            continue;
        };
        let attributes = &mut parsed.attributes;
        match word.effect {
            Effect::Nothing => {}
            // A word for all below covers the mount itself, and a later one for the mount itself is an exception to it.
            Effect::Set(bit) => {
                attributes.set |= bit;
                attributes.clear &= !bit;
            }
            Effect::Clear(bit) => {
                attributes.clear |= bit;
                attributes.set &= !bit;
            }
            Effect::Atime(mode) => {
                attributes.atime = Some(mode);
            }
            Effect::SetRecursive(bit) => {
                attributes.set_recursive |= bit;
                attributes.clear_recursive &= !bit;
                attributes.set &= !bit;
                attributes.clear &= !bit;
            }
            Effect::ClearRecursive(bit) => {
                attributes.clear_recursive |= bit;
                attributes.set_recursive &= !bit;
                attributes.set &= !bit;
                attributes.clear &= !bit;
            }
            Effect::AtimeRecursive(mode) => {
                attributes.atime_recursive = Some(mode);
                attributes.atime = None;
            }
            Effect::Superblock(key) | Effect::Iversion(key) => parsed.superblock.push(key),
            Effect::Bind(recursive) => parsed.bind = Some(recursive),
            Effect::Propagation(kind, recursive) => parsed.propagation.push(Propagation { kind, recursive }),
            Effect::CopyUp => parsed.copy_up = true,
            Effect::IdMap(recursive) => parsed.id_map = Some(recursive),
            Effect::Remount => parsed.remount = true,
            Effect::Nofollow(Nofollow::CopySymlink) => parsed.links.copy = true,
            Effect::Nofollow(Nofollow::Source) => parsed.links.source = true,
            Effect::Nofollow(Nofollow::Destination) => parsed.links.destination = true,
        }
    }
    let Attributes { set, clear, atime, .. } = parsed.attributes;
    let says_flags = set | clear != 0 || atime.is_some();
    parsed.attributes.exact = parsed.bind.is_some() && !parsed.remount && says_flags;
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_in_the_table_twice() {
        let mut names: Vec<_> = WORDS.iter().map(|word| word.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_last_word_wins() {
        let parsed = parse(&["ro", "rw"]).unwrap();
        assert_eq!((parsed.attributes.set, parsed.attributes.clear), (0, attr::RDONLY));
        let parsed = parse(&["rw", "ro"]).unwrap();
        assert_eq!((parsed.attributes.set, parsed.attributes.clear), (attr::RDONLY, 0));
        let parsed = parse(&["noatime", "strictatime", "relatime"]).unwrap();
        assert_eq!(parsed.attributes.atime, Some(attr::RELATIME));
    }

    #[test]
    fn a_bind_with_a_flag_word_has_exactly_the_asked_flags() {
        assert!(parse(&["rbind", "nosuid"]).unwrap().attributes.exact);
        assert!(!parse(&["rbind", "rprivate"]).unwrap().attributes.exact);
        assert!(!parse(&["nosuid"]).unwrap().attributes.exact);
        assert!(!parse(&["rbind", "rro"]).unwrap().attributes.exact);
    }

    #[test]
    fn the_last_word_wins_between_the_mount_and_all_below_it() {
        for (words, own, below) in [
            (&["ro", "rrw"][..], 0, 0),
            (&["rrw", "ro"], attr::RDONLY, 0),
            (&["rro", "rw"], 0, attr::RDONLY),
            (&["rw", "rro"], attr::RDONLY, attr::RDONLY),
        ] {
            let attributes = parse(words).unwrap().attributes;
            assert_eq!(attributes.applied_to(0), own, "{words:?}");
            assert_eq!(attributes.readonly(), own != 0, "{words:?}");
            assert_eq!(attributes.set_recursive, below, "{words:?}");
            assert_eq!(parse(&attributes.words()).unwrap().attributes, attributes, "{words:?}");
        }
        let atime = |words: &[&str]| parse(words).unwrap().attributes.applied_to(attr::STRICTATIME);
        assert_eq!(atime(&["rnoatime", "relatime"]), attr::RELATIME);
        assert_eq!(atime(&["relatime", "rnoatime"]), attr::NOATIME);
    }

    #[test]
    fn what_a_bind_ends_up_with() {
        let source = attr::NOSUID | attr::NOEXEC | attr::NOSYMFOLLOW | attr::NOATIME | attr::NODIRATIME;
        let kept = attr::NOATIME | attr::NODIRATIME;
        for (words, found) in [
            (&["bind"][..], source),
            (&["bind", "ro"], attr::RDONLY | kept),
            (&["bind", "suid"], kept),
            (&["rbind", "rro"], source | attr::RDONLY),
            (&["bind", "strictatime"], attr::STRICTATIME | attr::NODIRATIME),
            (&["bind", "diratime"], attr::NOATIME),
            (&["bind", "remount", "ro", "suid"], source & !attr::NOSUID | attr::RDONLY),
        ] {
            assert_eq!(parse(words).unwrap().attributes.applied_to(source), found, "{words:?}");
        }
    }

    #[test]
    fn propagation_follows_the_kernel() {
        let changed = |before: PropagationState, words: &[&str]| {
            let types = parse(words).unwrap().propagation;
            types.iter().fold(before, |state, next| state.changed(next.kind)).words()
        };
        let after = |words: &[&str]| changed(PropagationState::default(), words);
        assert_eq!(after(&["slave"]), "private");
        assert_eq!(after(&["shared", "slave"]), "private");
        let peer = PropagationState { shared: true, peers: true, ..PropagationState::default() };
        assert_eq!(changed(peer, &["slave"]), "slave");
        assert_eq!(changed(peer, &["slave", "shared"]), "shared,slave");
        assert_eq!(changed(peer, &["slave", "shared", "slave"]), "slave");
        assert_eq!(after(&["shared", "rprivate", "slave"]), "private");
        assert_eq!(after(&["shared", "unbindable"]), "unbindable");
        assert_eq!(after(&["unbindable", "slave"]), "unbindable");
        assert_eq!(after(&["unbindable", "shared"]), "shared");
    }

    proptest::proptest! {
        #[test]
        fn the_words_of_attributes_mean_the_attributes(
            picked in proptest::collection::vec(proptest::sample::select(WORDS), 0..12),
        ) {
            let names: Vec<&str> = picked
                .iter()
                .map(|word| word.name)
                .collect();
            let attributes = parse(&names).unwrap().attributes;
            let mut words = attributes.words();
            words.extend(attributes.exact.then_some("bind"));
            proptest::prop_assert_eq!(parse(&words).unwrap().attributes, attributes);
        }
    }

    #[test]
    fn unknown_words_go_to_the_filesystem() {
        let parsed = parse(&["mode=755", "nosuid", "newinstance"]).unwrap();
        assert_eq!(parsed.data, [("mode".into(), Some("755".into())), ("newinstance".into(), None)]);
    }

    #[test]
    fn propagation_words_are_kept_in_order() {
        let parsed = parse(&["shared", "rslave"]).unwrap();
        assert_eq!(parsed.propagation.iter().map(|p| p.name()).collect::<Vec<_>>(), ["shared", "rslave"]);
        assert_eq!(Propagation::from_name("rslave"), Some(Propagation::RSLAVE));
        assert_eq!(Propagation::from_name("ro"), None);
    }
}
