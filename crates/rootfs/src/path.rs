//! File names as bytes: Linux names are any bytes but NUL and `/`, so no path here is ever required to be UTF-8.

use std::borrow::Borrow;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file name or path, as the bytes the kernel sees.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PathBytes(Vec<u8>);

impl PathBytes {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, without a terminating NUL.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a standard library path.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether the path starts at the root.
    pub fn is_absolute(&self) -> bool {
        self.0.first() == Some(&b'/')
    }

    /// The components that name something: empty ones and `.` are left out, `..` is kept.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
    }

    /// Whether it can only name a directory: it ends in a slash, or in one and a dot.
    pub fn names_a_directory(&self) -> bool {
        self.0.ends_with(b"/") || self.0.ends_with(b"/.")
    }

    /// Whether it is the top of whatever it is looked up in: no name is in it.
    pub fn is_top(&self) -> bool {
        self.components().all(|name| name == b"..")
    }

    /// Whether its meaning depends on where links on the way lead.
    pub fn has_parents(&self) -> bool {
        self.components().any(|name| name == b"..")
    }

    /// The path made absolute and without `.`, empty components and `..` (which is clamped at the root). Text only:
    /// symbolic links are not considered, so this is for messages and comparisons, never for access.
    pub fn normalized(&self) -> Self {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in self.components() {
            if part == b".." {
                parts.pop();
            } else {
                parts.push(part);
            }
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        for part in &parts {
            bytes.push(b'/');
            bytes.extend_from_slice(part);
        }
        if bytes.is_empty() {
            bytes.push(b'/');
        }
        Self(bytes)
    }

    /// Without trailing slashes and `.` components: with those, the kernel follows a symbolic link in the last place though
    /// it was told not to; `path_resolution(7)`.
    pub fn as_entry(&self) -> Self {
        let mut bytes = self.0.as_slice();
        loop {
            bytes = match bytes {
                [rest @ .., b'/'] | [rest @ .., b'/', b'.'] if !rest.is_empty() => rest,
                b"/." => b"/",
                _ => return Self(bytes.to_vec()),
            };
        }
    }

    /// What its last name is in, and that name. `None` if it ends in no name: in a slash, or in `.` or `..`.
    pub fn split_last(&self) -> Option<(&[u8], &[u8])> {
        let slash = self.0.iter().rposition(|byte| *byte == b'/')?;
        let (parent, name) = (&self.0[..=slash], &self.0[slash + 1..]);
        (![&b""[..], b".", b".."].contains(&name)).then_some((parent, name))
    }

    /// `self` followed by `name`, with one slash between them.
    pub fn join(&self, name: impl AsRef<[u8]>) -> Self {
        let name = name.as_ref();
        let mut bytes = self.0.clone();
        if !bytes.is_empty() && bytes.last() != Some(&b'/') && !name.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// Whether `self`, as text, is `ancestor` or lies below it. Both are taken as normalized.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        self.as_path().starts_with(ancestor.as_path())
    }
}

impl fmt::Display for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for PathBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl Borrow<[u8]> for PathBytes {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<Path> for PathBytes {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl AsRef<[u8]> for PathBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for PathBytes {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for PathBytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&Path> for PathBytes {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<PathBuf> for PathBytes {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec())
    }
}

impl From<PathBytes> for PathBuf {
    fn from(path: PathBytes) -> Self {
        PathBuf::from(OsString::from_vec(path.0))
    }
}

impl From<&PathBytes> for CString {
    /// A path with a NUL byte has been refused long before it could come here; such a one becomes empty, which no
    /// call accepts.
    fn from(path: &PathBytes) -> Self {
        CString::new(path.0.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizing_clamps_dot_dot_at_the_root() {
        for (given, expected) in
            [("/a/../../b", "/b"), ("a//./b/", "/a/b"), ("/", "/"), ("..", "/"), ("/x/../proc", "/proc")]
        {
            assert_eq!(PathBytes::from(given).normalized(), PathBytes::from(expected), "{given}");
        }
    }

    #[test]
    fn an_entry_ends_in_its_name() {
        for (given, expected) in [
            ("/a/", "/a"),
            ("/a/.", "/a"),
            ("/a//./", "/a"),
            ("/", "/"),
            ("/.", "/"),
            ("//", "/"),
            ("/a/..", "/a/.."),
            ("/.a/b.", "/.a/b."),
        ] {
            assert_eq!(PathBytes::from(given).as_entry(), PathBytes::from(expected), "{given}");
        }
    }

    #[test]
    fn joining_puts_one_slash_between() {
        assert_eq!(PathBytes::from("/").join("a"), PathBytes::from("/a"));
        assert_eq!(PathBytes::from("/a").join("b"), PathBytes::from("/a/b"));
        assert_eq!(PathBytes::from("").join("b"), PathBytes::from("b"));
    }

    #[test]
    fn the_last_name_is_split_off_where_there_is_one() {
        for (path, parts) in [
            ("/a/b", Some(("/a/", "b"))),
            ("/a", Some(("/", "a"))),
            ("/a/..b", Some(("/a/", "..b"))),
            ("//a/.//b", Some(("//a/.//", "b"))),
            ("/", None),
            ("/a/", None),
            ("/a/.", None),
            ("/a/..", None),
            ("a", None),
            ("", None),
        ] {
            let path = PathBytes::from(path);
            let expected = parts.map(|(parent, name)| (parent.as_bytes(), name.as_bytes()));
            assert_eq!(path.split_last(), expected, "{path}");
        }
    }

    #[test]
    fn an_ancestor_is_compared_by_component() {
        assert!(PathBytes::from("/a/b").starts_with(&PathBytes::from("/a")));
        assert!(!PathBytes::from("/ab").starts_with(&PathBytes::from("/a")));
    }
}
