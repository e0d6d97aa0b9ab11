//! Where a part of a specification was said: a value of an OCI config, or an argument of a builder's method. Checks and warnings
//! know the part; this makes of it what the caller has written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something that a specification has in a list, by its place there, or once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Item {
    /// Of [`content`](crate::spec::RootfsSpec::content).
    Content(usize),
    /// Of [`devices`](crate::spec::RootfsSpec::devices).
    Device(usize),
    /// Of [`masks`](crate::spec::RootfsSpec::masks).
    Mask(usize),
    /// [`namespaces`](crate::spec::RootfsSpec::namespaces).
    Namespaces,
}

/// A part of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// A field, by its OCI name.
    Field(&'static str),
    /// An option word of a mount, or the option of this key.
    Option(String),
}

/// Where something is, in the words of whoever has written it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// A value of an OCI config, as a JSON pointer (RFC 6901).
    pub pointer: Option<String>,
    /// An argument of a builder's method, such as `destination` or `mount.options[2]`.
    pub argument: Option<String>,
}

impl Location {
    /// A value of an OCI config.
    pub fn pointer(pointer: impl Into<String>) -> Self {
        Self { pointer: Some(pointer.into()), argument: None }
    }

    /// An argument of a builder's method.
    pub fn argument(name: impl Into<String>) -> Self {
        Self { pointer: None, argument: Some(name.into()) }
    }

    /// For people: `mounts[3].options[1]`.
    pub fn name(&self) -> Option<String> {
        if let Some(argument) = &self.argument {
            return Some(argument.clone());
        }
        let mut name = String::new();
        for key in self.pointer.as_ref()?.split('/').skip(1) {
            if key.bytes().all(|byte| byte.is_ascii_digit()) {
                name.extend(["[", key, "]"]);
            } else {
                name.push_str(if name.is_empty() { "" } else { "." });
                name.push_str(&key.replace("~1", "/").replace("~0", "~"));
            }
        }
        Some(name)
    }
}

/// Where an item was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    location: Location,
    /// The option words of a mount, with their places in its list.
    words: Vec<(usize, String)>,
}

impl Origin {
    /// A value of an OCI config.
    pub fn of_config(pointer: impl Into<String>, words: Vec<(usize, String)>) -> Self {
        Self { location: Location::pointer(pointer), words }
    }

    /// The argument of a builder's method that says all of it in OCI form.
    pub fn of_argument(name: &str, words: &[String]) -> Self {
        Self { location: Location::argument(name), words: words.iter().cloned().enumerate().collect() }
    }

    /// The option words, in their order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(|(_, word)| word.as_str())
    }

    /// Where a part of it is. The last of several words counts, as it does for the mount.
    pub fn locate(&self, part: &Part) -> Location {
        let with = |pointer: String, argument: String| Location {
            pointer: self.location.pointer.as_ref().map(|whole| whole.clone() + &pointer),
            argument: self.location.argument.as_ref().map(|whole| whole.clone() + &argument),
        };
        match part {
            Part::Whole => self.location.clone(),
            Part::Field(key) => with(format!("/{key}"), format!(".{key}")),
            Part::Option(wanted) => {
                let key = |word: &String| word == wanted || word.split('=').next() == Some(wanted);
                match self.words.iter().rfind(|(_, word)| key(word)) {
                    Some((place, _)) => with(format!("/options/{place}"), format!(".options[{place}]")),
                    None => self.location.clone(),
                }
            }
        }
    }
}

/// Where the items of a specification were said, as far as that isn't an argument of their own method.
pub type Origins = BTreeMap<Item, Origin>;

/// Where a part of an item is. Of what has no origin, its builder's method has an argument of the same name.
pub fn locate(origins: &Origins, item: Item, part: &Part) -> Location {
    if let Some(origin) = origins.get(&item) {
        return origin.locate(part);
    }
    Location::argument(match (item, part) {
        (Item::Content(_), Part::Field(name)) => name,
        // Its flags are those of all below it.
        (Item::Content(_), Part::Option(word)) if word == "rnodev" => "nodev",
        (Item::Content(_), Part::Option(word)) => word.split('=').next().unwrap_or_default(),
        (Item::Content(_), Part::Whole) => "destination",
        (Item::Device(_), _) => "node.path",
        (Item::Mask(_), _) => "paths",
        (Item::Namespaces, _) => "namespaces.mount",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_where_it_was_written() {
        let words: Vec<String> = ["ro", "size=1", "size=2"].map(str::to_owned).to_vec();
        let config = Origin::of_config("/mounts/3", words.iter().cloned().enumerate().collect());
        let argument = Origin::of_argument("mount", &words);
        for (part, pointer, name) in [
            (Part::Whole, "/mounts/3", "mount"),
            (Part::Field("source"), "/mounts/3/source", "mount.source"),
            (Part::Option("ro".into()), "/mounts/3/options/0", "mount.options[0]"),
            (Part::Option("size".into()), "/mounts/3/options/2", "mount.options[2]"),
            (Part::Option("size=1".into()), "/mounts/3/options/1", "mount.options[1]"),
            (Part::Option("mode".into()), "/mounts/3", "mount"),
        ] {
            assert_eq!(config.locate(&part), Location::pointer(pointer));
            assert_eq!(argument.locate(&part), Location::argument(name));
        }
        assert_eq!(Location::pointer("/mounts/3/options/0").name().unwrap(), "mounts[3].options[0]");
        assert_eq!(Location::pointer("/linux/sysctl/a~1b").name().unwrap(), "linux.sysctl.a/b");
    }
}
