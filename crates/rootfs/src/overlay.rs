//! Overlay filesystems: what they are made of, from the builder or from OCI option words, and what of it can be checked
//! without a kernel. `mount(8)` and the kernel's `Documentation/filesystems/overlayfs.rst`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::options::option_text;
use crate::origin::Part;
use crate::path::PathBytes;

/// The most lower directories that the kernel takes; `OVL_MAX_STACK`.
pub const MAX_LOWER: usize = 500;

/// Where an overlay is written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// What is changed goes here.
    pub directory: PathBytes,
    /// An empty directory on the same mount, for the kernel's own use.
    pub work: PathBytes,
}

/// What an overlay is made of. All directories are the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// What the mount table shows as its source, if that isn't `overlay`.
    pub source: Option<PathBytes>,
    /// Directories that are only read; the first one is on top.
    pub lower: Vec<PathBytes>,
    /// Where changes go. Without it a root gets a private tmpfs, and a mount is read-only.
    pub upper: Option<Upper>,
    /// Whether changes need not be on disk when something says that they are.
    pub volatile: bool,
    /// `fsconfig` flags of the superblock.
    pub superblock: Vec<String>,
    /// Other options of the filesystem.
    pub data: Vec<(String, Option<String>)>,
}

impl Overlay {
    /// Takes the directories out of OCI option words; the others stay options of the filesystem.
    pub fn from_options(superblock: Vec<String>, data: Vec<(String, Option<String>)>) -> Result<Self> {
        let mut overlay = Self { superblock, ..Self::default() };
        let (mut upper, mut work) = (None, None);
        for (key, value) in data {
            match (&*key, value) {
                ("lowerdir", Some(list)) => overlay.lower.extend(split_lower(&list)?),
                ("lowerdir+", Some(path)) => overlay.lower.push(path.as_str().into()),
                ("upperdir", Some(path)) => upper = Some(unescape(&path)),
                ("workdir", Some(path)) => work = Some(unescape(&path)),
                ("volatile", None) => overlay.volatile = true,
                ("lowerdir" | "lowerdir+" | "upperdir" | "workdir", None) => {
                    return Err(spec_error(format!("the option \"{key}\" needs a directory"))
                        .about(Part::Option(key)));
                }
                ("datadir+", _) => return Err(data_only()),
                (_, value) => overlay.data.push((key, value)),
            }
        }
        overlay.upper = pair(upper, work).map_err(spec_error)?;
        Ok(overlay)
    }

    /// Every directory, with the name of its option.
    pub fn directories_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut PathBytes)> {
        let upper = self
            .upper
            .iter_mut()
            .flat_map(|Upper { directory, work }| [("upper", directory), ("work", work)]);
        self.lower.iter_mut().map(|path| ("lower", path)).chain(upper)
    }

    /// The same, only to look at.
    pub fn directories(&self) -> impl Iterator<Item = (&'static str, &PathBytes)> {
        let upper =
            self.upper.iter().flat_map(|Upper { directory, work }| [("upper", directory), ("work", work)]);
        self.lower.iter().map(|path| ("lower", path)).chain(upper)
    }

    /// Checks what needs no kernel. `private_upper` says that it gets a tmpfs to write to if it has nothing else.
    pub fn validate(&self, private_upper: bool) -> Result<()> {
        if self.lower.is_empty() {
            return Err(spec_error("lower: an overlay needs at least one lower directory"));
        }
        if self.lower.len() > MAX_LOWER {
            return Err(spec_error(format!("lower: at most {MAX_LOWER} lower directories are possible")));
        }
        if self.upper.is_none() && !private_upper && self.lower.len() < 2 {
            return Err(spec_error(
                "lower: an overlay without upper needs two lower directories or more; for one, use a bind",
            ));
        }
        if self.volatile && self.upper.is_none() && !private_upper {
            return Err(spec_error("volatile: an overlay without upper is never written"));
        }
        for (name, path) in self.directories() {
            if path.as_bytes().is_empty() || path.as_bytes().contains(&0) {
                return Err(spec_error(format!("{name}: a path is empty, or contains a NUL byte")));
            }
            if !path.is_absolute() {
                return Err(spec_error(format!("{name}: {path} is not an absolute path")));
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        for (name, path) in self.directories() {
            if !seen.insert(path.normalized()) {
                return Err(spec_error(format!("{name}: {path} is given twice")));
            }
        }
        Ok(())
    }

    /// What it is, as words for plans.
    pub fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.lower.iter().map(|path| format!("lowerdir={path}")).collect();
        if let Some(Upper { directory, work }) = &self.upper {
            words.push(format!("upperdir={directory}"));
            words.push(format!("workdir={work}"));
        }
        if self.volatile {
            words.push("volatile".to_owned());
        }
        words.extend(self.superblock.iter().cloned());
        words.extend(self.data.iter().map(|(key, value)| option_text(key, value.as_deref())));
        words
    }
}

/// `upper` and `work` come together or not at all.
pub fn pair(
    upper: Option<PathBytes>,
    work: Option<PathBytes>,
) -> std::result::Result<Option<Upper>, &'static str> {
    match (upper, work) {
        (Some(directory), Some(work)) => Ok(Some(Upper { directory, work })),
        (None, None) => Ok(None),
        (Some(_), None) => Err("work: an overlay with upper needs work, an empty directory beside it"),
        (None, Some(_)) => Err("upper: an overlay with work needs upper, the directory that is written to"),
    }
}

/// Takes the backslashes out that protect colons and others in option words.
fn unescape(text: &str) -> PathBytes {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'\\' { rest.next().unwrap_or(byte) } else { byte });
    }
    PathBytes::new(bytes)
}

/// The directories of `lowerdir`, which are separated by colons.
fn split_lower(list: &str) -> Result<Vec<PathBytes>> {
    let mut parts = Vec::new();
    let (mut begin, mut escaped) = (0, false);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b':' if !escaped => {
                parts.push(&list[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
    }
    parts.push(&list[begin..]);
    if parts.iter().skip(1).any(|part| part.is_empty()) && parts.len() > 2 {
        return Err(data_only());
    }
    Ok(parts.into_iter().map(unescape).collect())
}

fn data_only() -> Box<Error> {
    Error::new(
        ErrorCode::Unsupported,
        "lower directories of an overlay that only hold data are not supported",
    )
}

fn spec_error(message: impl Into<String>) -> Box<Error> {
    Error::new(ErrorCode::Spec, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &[&str]) -> Vec<(String, Option<String>)> {
        words
            .iter()
            .map(|word| match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => ((*word).to_owned(), None),
            })
            .collect()
    }

    #[test]
    fn directories_are_taken_out_of_the_words() {
        let words =
            options(&["lowerdir=/a:/b\\:c:/d\\\\", "upperdir=/u\\,", "workdir=/w", "xino=off", "volatile"]);
        let overlay = Overlay::from_options(vec![], words).unwrap();
        let paths: Vec<_> = overlay.directories().map(|(name, path)| format!("{name} {path}")).collect();
        assert_eq!(paths, ["lower /a", "lower /b:c", "lower /d\\", "upper /u,", "work /w"]);
        assert!(overlay.volatile);
        assert_eq!(overlay.data, [("xino".to_owned(), Some("off".to_owned()))]);
        overlay.validate(false).unwrap();
    }

    #[test]
    fn a_layer_a_word_is_taken_as_it_is() {
        let overlay = Overlay::from_options(vec![], options(&["lowerdir+=/a:b", "lowerdir+=/c"])).unwrap();
        assert_eq!(overlay.lower, ["/a:b".into(), "/c".into()]);
    }

    #[test]
    fn upper_and_work_come_together() {
        for words in [["lowerdir=/a", "upperdir=/u"], ["lowerdir=/a", "workdir=/w"]] {
            assert_eq!(Overlay::from_options(vec![], options(&words)).unwrap_err().code, ErrorCode::Spec);
        }
    }

    #[test]
    fn layers_with_data_only_are_refused_and_not_taken_for_others() {
        for words in [&["lowerdir=/a::/b"][..], &["lowerdir=/a", "datadir+=/b"]] {
            let error = Overlay::from_options(vec![], options(words)).unwrap_err();
            assert_eq!(error.code, ErrorCode::Unsupported);
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_without_a_word_is_refused_with_one() {
        let overlay = |lower: &[&str]| Overlay {
            lower: lower.iter().map(|path| PathBytes::from(*path)).collect(),
            ..Overlay::default()
        };
        for (wrong, what) in [
            (overlay(&[]), "at least one"),
            (overlay(&["/a"]), "two lower"),
            (overlay(&["/a", "/b/../a"]), "twice"),
            (overlay(&["/a", "b"]), "not an absolute"),
            (overlay(&["/x"; 501]), "at most 500"),
        ] {
            let error = wrong.validate(false).unwrap_err();
            assert_eq!(error.code, ErrorCode::Spec);
            assert!(error.message.contains(what), "{}", error.message);
        }
        overlay(&["/a"]).validate(true).unwrap();
        overlay(&["/a", "/b"]).validate(false).unwrap();
    }
}
