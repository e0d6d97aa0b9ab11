//! JavaScript values as plain Rust data, and the checks that say what was wanted and what came.

use std::fmt;

use rootfs::PathBytes;
use rootfs::spec::MAX_ID;

use crate::failure::{ArgumentKind, Failure};

/// The largest integer that a JavaScript number holds exactly.
pub(crate) const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// A JavaScript value, copied.
#[derive(Clone, Debug, PartialEq)]
pub enum JsArg {
    Undefined,
    Null,
    Bool(bool),
    Number(f64),
    String(String),
    Bytes(Vec<u8>),
    Array(Vec<JsArg>),
    /// Own enumerable keys with string names, in their order.
    Object(Vec<(String, JsArg)>),
    /// Anything else, with its name for messages.
    Other(&'static str),
}

impl fmt::Display for JsArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.write_str("undefined"),
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value} of type boolean"),
            Self::Number(value) if value.is_nan() => f.write_str("NaN of type number"),
            Self::Number(value) if value.is_infinite() => {
                f.write_str(if *value > 0.0 { "Infinity of type number" } else { "-Infinity of type number" })
            }
            Self::Number(value) => write!(f, "{value} of type number"),
            Self::String(value) => {
                let short: String = value.chars().take(100).collect();
                let dots = if short.len() < value.len() { "…" } else { "" };
                write!(f, "'{}{dots}' of type string", short.escape_debug())
            }
            Self::Bytes(bytes) => write!(f, "a Uint8Array of {} bytes", bytes.len()),
            Self::Array(_) => f.write_str("an array"),
            Self::Object(_) => f.write_str("an object"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

pub(crate) type Parsed<T> = Result<T, Failure>;

/// An error of this form: "Expected integer between 0 and 4095 for mode but received 99999 of type number".
pub(crate) fn unexpected(
    kind: ArgumentKind,
    wanted: impl fmt::Display,
    name: &str,
    received: &JsArg,
) -> Failure {
    Failure::argument(kind, format!("Expected {wanted} for {name} but received {received}"))
}

pub(crate) fn boolean(name: &str, value: &JsArg) -> Parsed<bool> {
    match value {
        JsArg::Bool(value) => Ok(*value),
        other => Err(unexpected(ArgumentKind::Type, "boolean", name, other)),
    }
}

/// An integer in a range; both ends count. Nothing is rounded or wrapped.
pub(crate) fn integer(name: &str, value: &JsArg, min: u64, max: u64) -> Parsed<u64> {
    let wanted = format_args!("integer between {min} and {max}").to_string();
    let JsArg::Number(number) = value else {
        return Err(unexpected(ArgumentKind::Type, wanted, name, value));
    };
    whole(*number)
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| unexpected(ArgumentKind::Range, wanted, name, value))
}

/// A number as the integer that it is, if it is one that doubles hold exactly.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn whole(number: f64) -> Option<u64> {
    let fits = number.fract() == 0.0 && (0.0..=MAX_SAFE_INTEGER as f64).contains(&number);
    fits.then_some(number as u64)
}

pub(crate) fn integer32(name: &str, value: &JsArg, min: u32, max: u32) -> Parsed<u32> {
    let number = integer(name, value, u64::from(min), u64::from(max))?;
    Ok(u32::try_from(number).unwrap_or(max))
}

/// A user or group id.
pub(crate) fn id(name: &str, value: &JsArg) -> Parsed<u32> {
    integer32(name, value, 0, MAX_ID)
}

/// Permission bits.
pub(crate) fn mode(name: &str, value: &JsArg) -> Parsed<u32> {
    integer32(name, value, 0, 0o7777)
}

/// Bytes as a number, or a string with a k, m or g suffix. Zero is refused: to tmpfs it means "no limit".
pub(crate) fn size(name: &str, value: &JsArg) -> Parsed<u64> {
    const WANTED: &str = "number of bytes greater than zero, or string with a k, m or g suffix,";
    match value {
        JsArg::Number(number) => whole(*number).filter(|number| *number > 0).ok_or(ArgumentKind::Range),
        JsArg::String(text) => size_of_text(text).filter(|size| *size > 0).ok_or(ArgumentKind::Value),
        _ => Err(ArgumentKind::Type),
    }
    .map_err(|kind| unexpected(kind, WANTED, name, value))
}

fn size_of_text(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|size| *size <= MAX_SAFE_INTEGER)
}

/// A string without NUL bytes.
pub(crate) fn text(name: &str, value: &JsArg) -> Parsed<String> {
    match value {
        JsArg::String(text) if text.contains('\0') => {
            Err(unexpected(ArgumentKind::Value, "string without NUL bytes", name, value))
        }
        JsArg::String(text) => Ok(text.clone()),
        other => Err(unexpected(ArgumentKind::Type, "string", name, other)),
    }
}

/// A file name: a string, or bytes where it isn't UTF-8.
pub(crate) fn path(name: &str, value: &JsArg) -> Parsed<PathBytes> {
    let bytes = match value {
        JsArg::String(text) => text.as_bytes(),
        JsArg::Bytes(bytes) => bytes,
        other => return Err(unexpected(ArgumentKind::Type, "string or Uint8Array", name, other)),
    };
    if bytes.is_empty() {
        return Err(unexpected(ArgumentKind::Value, "path that is not empty", name, value));
    }
    if bytes.contains(&0) {
        return Err(unexpected(ArgumentKind::Value, "path without NUL bytes", name, value));
    }
    Ok(PathBytes::new(bytes))
}

pub(crate) fn absolute_path(name: &str, value: &JsArg) -> Parsed<PathBytes> {
    if *value == JsArg::String(String::new()) {
        return Err(unexpected(ArgumentKind::Value, "absolute path", name, value));
    }
    let path = path(name, value)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(unexpected(ArgumentKind::Value, "absolute path", name, value))
    }
}

/// An array, each element through a parser that gets the element's own name.
pub(crate) fn array<T>(
    name: &str,
    value: &JsArg,
    element: impl Fn(&str, &JsArg) -> Parsed<T>,
) -> Parsed<Vec<T>> {
    let JsArg::Array(items) = value else {
        return Err(unexpected(ArgumentKind::Type, "array", name, value));
    };
    items.iter().enumerate().map(|(index, item)| element(&format!("{name}[{index}]"), item)).collect()
}

/// One of several words.
pub(crate) fn word<T>(
    name: &str,
    value: &JsArg,
    words: &[&str],
    find: impl Fn(&str) -> Option<T>,
) -> Parsed<T> {
    let list = || {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        format!("one of {}", quoted.join(", "))
    };
    match value {
        JsArg::String(text) => find(text).ok_or_else(|| unexpected(ArgumentKind::Value, list(), name, value)),
        other => Err(unexpected(ArgumentKind::Type, list(), name, other)),
    }
}

/// An options object whose keys are all known in the end.
pub(crate) struct Options {
    /// What names of keys begin with in messages, such as `user.`.
    prefix: String,
    entries: Vec<(String, JsArg)>,
    known: Vec<&'static str>,
}

impl Options {
    /// The last argument of a method; `undefined` is an empty one.
    pub(crate) fn of_call(value: JsArg) -> Parsed<Self> {
        match value {
            JsArg::Undefined => Ok(Self { prefix: String::new(), entries: Vec::new(), known: Vec::new() }),
            value => Self::new("options", String::new(), value),
        }
    }

    /// An object inside another or in an array, with its name.
    pub(crate) fn nested(name: &str, value: &JsArg) -> Parsed<Self> {
        Self::new(name, format!("{name}."), value.clone())
    }

    fn new(name: &str, prefix: String, value: JsArg) -> Parsed<Self> {
        match value {
            JsArg::Object(entries) => Ok(Self { prefix, entries, known: Vec::new() }),
            other => Err(unexpected(ArgumentKind::Type, "object", name, &other)),
        }
    }

    /// The value of a key, unless it is missing or undefined.
    pub(crate) fn take<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str, &JsArg) -> Parsed<T>,
    ) -> Parsed<Option<T>> {
        self.known.push(key);
        let Some(at) = self.entries.iter().position(|(name, _)| name == key) else {
            return Ok(None);
        };
        match self.entries.swap_remove(at).1 {
            JsArg::Undefined => Ok(None),
            value => parse(&format!("{}{key}", self.prefix), &value).map(Some),
        }
    }

    /// The value of a key that must be there.
    pub(crate) fn require<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str, &JsArg) -> Parsed<T>,
    ) -> Parsed<T> {
        // Parsing `undefined` gives the parser's own sentence about what is wanted.
        let at = self.entries.iter().position(|(name, _)| name == key);
        let value = at.map_or(JsArg::Undefined, |at| self.entries.swap_remove(at).1);
        self.known.push(key);
        parse(&format!("{}{key}", self.prefix), &value)
    }

    /// A switch.
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> Parsed<bool> {
        Ok(self.take(key, boolean)?.unwrap_or(default))
    }

    /// Refuses what is left.
    pub(crate) fn finish(self) -> Parsed<()> {
        self.finish_beside(&[])
    }

    /// Refuses what is left, where somebody else has taken others.
    pub(crate) fn finish_beside(mut self, others: &[&[&'static str]]) -> Parsed<()> {
        let Some((key, _)) = self.entries.first() else {
            return Ok(());
        };
        self.known.extend(others.iter().copied().flatten());
        let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
        Err(Failure::argument(
            ArgumentKind::Value,
            format!("Unknown option {}{key}: known ones are {known}", self.prefix),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: fmt::Debug>(result: Parsed<T>) -> (ArgumentKind, String) {
        match result.unwrap_err() {
            Failure::Argument { kind, message } => (kind, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_number_out_of_range_is_said_as_it_came() {
        assert_eq!(
            message(mode("mode", &JsArg::Number(99999.0))),
            (
                ArgumentKind::Range,
                "Expected integer between 0 and 4095 for mode but received 99999 of type number".into()
            )
        );
    }

    #[test]
    fn ids_are_never_wrapped_or_rounded() {
        for number in [4_294_967_296.0, 4_294_967_295.0, -1.0, f64::NAN, 1.5, f64::INFINITY] {
            assert_eq!(message(id("uid", &JsArg::Number(number))).0, ArgumentKind::Range, "{number}");
        }
        assert_eq!(message(id("uid", &JsArg::String("1".into()))).0, ArgumentKind::Type);
        assert_eq!(id("uid", &JsArg::Number(4_294_967_294.0)).unwrap(), MAX_ID);
        assert_eq!(id("uid", &JsArg::Number(-0.0)).unwrap(), 0);
    }

    #[test]
    fn sizes_have_binary_suffixes() {
        for (given, expected) in [("64m", 64 << 20), ("1G", 1 << 30), ("10k", 10 << 10), ("4096", 4096)] {
            assert_eq!(size("size", &JsArg::String(given.into())).unwrap(), expected);
        }
        for given in ["", "m", "1.5m", "-1", "+1", "1t", "1 m", "50%", "0", "99999999999g"] {
            assert_eq!(message(size("size", &JsArg::String(given.into()))).0, ArgumentKind::Value, "{given}");
        }
        assert_eq!(message(size("size", &JsArg::Number(0.0))).0, ArgumentKind::Range);
        assert_eq!(message(size("size", &JsArg::Bool(true))).0, ArgumentKind::Type);
    }

    #[test]
    fn nul_bytes_are_refused_in_text_and_paths() {
        assert_eq!(message(path("source", &JsArg::String("/a\0b".into()))).0, ArgumentKind::Value);
        assert_eq!(message(path("source", &JsArg::Bytes(vec![b'/', 0]))).0, ArgumentKind::Value);
        assert_eq!(message(text("env.A", &JsArg::String("\0".into()))).0, ArgumentKind::Value);
        assert_eq!(path("source", &JsArg::Bytes(vec![b'/', 0xff])).unwrap().as_bytes(), [b'/', 0xff]);
    }

    #[test]
    fn an_unknown_key_is_named_with_the_known_ones() {
        let entries = vec![("readonly".into(), JsArg::Bool(true)), ("idMap".into(), JsArg::Null)];
        let mut options = Options::of_call(JsArg::Object(entries)).unwrap();
        assert!(options.flag("readonly", false).unwrap());
        assert!(options.flag("recursive", true).unwrap());
        assert_eq!(
            message(options.finish()),
            (ArgumentKind::Value, "Unknown option idMap: known ones are readonly, recursive".into())
        );
    }

    #[test]
    fn nested_names_say_where() {
        let value = JsArg::Object(vec![("uid".into(), JsArg::Number(-1.0))]);
        let mut options = Options::nested("user", &value).unwrap();
        assert!(message(options.require("uid", id)).1.contains("for user.uid but received -1"));
        assert!(message(options.require("gid", id)).1.contains("for user.gid but received undefined"));
    }
}
