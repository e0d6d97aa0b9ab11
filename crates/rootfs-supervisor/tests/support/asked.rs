//! Mounts on each other, and what is said of them: generated, and told from the words alone.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rootfs::mountinfo::{self, Entry};
use rootfs::path::PathBytes;
use rootfs::spec::{Mount, mount_from_oci};

/// As the words of the command line have it, in the order in which they are said.
const WORDS: [&str; 26] = [
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "nosymfollow",
    "symfollow",
    "nodiratime",
    "diratime",
    "noatime",
    "relatime",
    "strictatime",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "rro",
    "rrw",
    "rnosuid",
];

#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) destination: &'static str,
    pub(crate) what: What,
    pub(crate) words: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Tmpfs,
    Proc,
    Bind(&'static str),
    Tree(&'static str),
    Overlay,
    Remount,
    RemountBind,
}

pub(crate) fn said() -> impl Strategy<Value = Said> {
    let destination =
        select(vec!["/a", "/a/b", "/a/b/c", "/b", "/b/c", "/absolute", "/absolute/b", "/b/../a/d"]);
    let what = select(vec![
        What::Tmpfs,
        What::Tmpfs,
        What::Proc,
        What::Bind("/mnt/source/directory"),
        What::Bind("/mnt/tree"),
        What::Tree("/mnt/tree"),
        What::Tree("/mnt/peer"),
        What::Overlay,
        What::Remount,
        What::RemountBind,
    ]);
    (destination, what, vec(select(WORDS.to_vec()), 0..4)).prop_map(|(destination, what, words)| Said {
        destination,
        what,
        words,
    })
}

pub(crate) fn mount(said: &Said) -> Option<Mount> {
    let (source, fstype, kind): (Option<&str>, _, &[&str]) = match said.what {
        What::Tmpfs => (None, Some("tmpfs"), &[]),
        What::Proc => (None, Some("proc"), &[]),
        What::Bind(source) => (Some(source), None, &["bind"]),
        What::Tree(source) => (Some(source), None, &["rbind"]),
        What::Overlay => (None, Some("overlay"), &["lowerdir=/mnt/source"]),
        What::Remount => (None, None, &["remount"]),
        What::RemountBind => (None, None, &["remount", "bind"]),
    };
    let words: Vec<String> = kind.iter().chain(&said.words).map(|word| (*word).to_owned()).collect();
    mount_from_oci(said.destination.into(), source.map(Into::into), fstype, &words, None).ok()
}

/// What is on a place, told from the words alone.
#[derive(Clone, Debug, Default)]
struct State {
    flags: BTreeMap<&'static str, bool>,
    atime: Option<&'static str>,
    shared: bool,
    unbindable: bool,
    /// More is to be known than the words say.
    unknown: bool,
}

impl State {
    fn say(&mut self, word: &'static str) {
        match word {
            "ro" | "nosuid" | "nodev" | "noexec" | "nosymfollow" | "nodiratime" => {
                self.flags.insert(word, true);
            }
            "rw" => drop(self.flags.insert("ro", false)),
            "suid" => drop(self.flags.insert("nosuid", false)),
            "dev" => drop(self.flags.insert("nodev", false)),
            "exec" => drop(self.flags.insert("noexec", false)),
            "symfollow" => drop(self.flags.insert("nosymfollow", false)),
            "diratime" => drop(self.flags.insert("nodiratime", false)),
            "noatime" | "relatime" | "strictatime" => self.atime = Some(word),
            "shared" | "rshared" => (self.shared, self.unbindable) = (true, false),
            "private" | "rprivate" => (self.shared, self.unbindable) = (false, false),
            // To the kernel this is about receiving alone.
            "slave" | "rslave" => self.shared = false,
            "unbindable" | "runbindable" => (self.shared, self.unbindable) = (false, true),
            _ => self.unknown = true,
        }
    }

    fn differs(&self, found: &Entry) -> Option<String> {
        let has = |word: &str| found.options.iter().any(|option| option == word);
        for (word, set) in &self.flags {
            if has(word) != *set {
                return Some(format!("{word}: {set}"));
            }
        }
        let found_atime = ["noatime", "relatime"].into_iter().find(|word| has(word)).unwrap_or("strictatime");
        if self.atime.is_some_and(|wanted| wanted != found_atime) {
            return Some(format!("{:?}", self.atime));
        }
        let is = |prefix: &str| found.propagation.iter().any(|word| word.starts_with(prefix));
        (is("shared:") != self.shared || is("unbindable") != self.unbindable)
            .then(|| format!("shared {}, unbindable {}", self.shared, self.unbindable))
    }
}

/// What the words ask for, by the places that can be seen at the end.
fn wanted(all: &[Said]) -> BTreeMap<String, State> {
    let mut places: BTreeMap<String, State> = BTreeMap::new();
    for said in all {
        let place = said.destination.replace("/absolute", "/a").replace("/b/../a", "/a");
        let remount = matches!(said.what, What::Remount | What::RemountBind);
        let mut state = if remount {
            places.get(&place).cloned().unwrap_or(State { unknown: true, ..State::default() })
        } else {
            let parent = places.iter().rfind(|(at, _)| {
                place == **at || place.strip_prefix(&***at).is_some_and(|rest| rest.starts_with('/'))
            });
            let (shared, unknown) = parent.map_or((false, false), |(_, on)| (on.shared, on.unknown));
            places.retain(|at, _| !(*at == place || at.starts_with(&format!("{place}/"))));
            State { shared, unknown, ..State::default() }
        };
        // The tree has flags of its own, and its peer receives.
        state.unknown |= matches!(said.what, What::Tree("/mnt/peer") | What::Overlay | What::Proc);
        for word in &said.words {
            state.say(word);
            // All that is there already, of a word that is for that too.
            if remount
                && ["rprivate", "rshared", "rslave", "runbindable", "rro", "rrw", "rnosuid"].contains(word)
            {
                let below = format!("{place}/");
                places.iter_mut().filter(|(at, _)| at.starts_with(&below)).for_each(|(_, on)| on.say(word));
            }
        }
        places.insert(place, state);
    }
    places
}

/// The mount that a path leads to, if it is its place.
fn seen<'t>(table: &'t [Entry], path: &str) -> Option<&'t Entry> {
    let on = |mount: &Entry, at: &PathBytes| {
        table.iter().find(|other| other.parent_id == mount.id && other.destination == *at)
    };
    let mut at = PathBytes::from("/");
    let is_root =
        |entry: &&Entry| entry.destination == at && !table.iter().any(|other| other.id == entry.parent_id);
    let mut mount = table.iter().find(is_root)?;
    for name in std::iter::once(&b""[..]).chain(PathBytes::from(path).components()) {
        at = if name.is_empty() { at } else { at.join(name) };
        while let Some(next) = on(mount, &at) {
            mount = next;
        }
    }
    (mount.destination == PathBytes::from(path)).then_some(mount)
}

/// What the kernel shows and the words don't say.
pub(crate) fn difference(all: &[Said], table: &str) -> Option<String> {
    let table = mountinfo::parse(table.as_bytes());
    wanted(all).into_iter().filter(|(_, state)| !state.unknown).find_map(|(place, state)| {
        match seen(&table, &place) {
            None => Some(format!("nothing on {place}")),
            Some(found) => state.differs(found).map(|what| format!("{place}: {what}: {found:?}")),
        }
    })
}
