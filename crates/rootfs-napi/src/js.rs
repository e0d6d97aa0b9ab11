//! The one place where JavaScript values are read.
// Reading a value whose type was just asked for is an unchecked cast in napi.
#![allow(unsafe_code)]

use napi::bindgen_prelude::{
    FromNapiValue, JsObjectValue, Object, TypeName, Uint8ArraySlice, Unknown, ValidateNapiValue,
};
use napi::{JsValue, KeyCollectionMode, KeyConversion, KeyFilter, Result, ValueType, sys};

use crate::argument::JsArg;

/// No option is nested as deep as this; a cyclic object ends here.
const MAX_DEPTH: usize = 5;

impl TypeName for JsArg {
    fn type_name() -> &'static str {
        "unknown"
    }

    fn value_type() -> ValueType {
        ValueType::Unknown
    }
}

impl ValidateNapiValue for JsArg {
    unsafe fn validate(_: sys::napi_env, _: sys::napi_value) -> Result<sys::napi_value> {
        Ok(std::ptr::null_mut())
    }
}

impl FromNapiValue for JsArg {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> Result<Self> {
        // SAFETY: the caller gives a live value of this environment.
        let value = unsafe { Unknown::from_napi_value(env, value) }?;
        read(&value, 0)
    }
}

fn read(value: &Unknown<'_>, depth: usize) -> Result<JsArg> {
    Ok(match value.get_type()? {
        ValueType::Undefined => JsArg::Undefined,
        ValueType::Null => JsArg::Null,
        // SAFETY: the type of the value was asked for in this very match.
        ValueType::Boolean => JsArg::Bool(unsafe { value.cast() }?),
        // SAFETY: as above.
        ValueType::Number => JsArg::Number(unsafe { value.cast() }?),
        // SAFETY: as above.
        ValueType::String => JsArg::String(unsafe { value.cast() }?),
        ValueType::Object => return read_object(value, depth),
        ValueType::Function => JsArg::Other("a function"),
        ValueType::Symbol => JsArg::Other("a symbol"),
        ValueType::BigInt => JsArg::Other("a bigint"),
        ValueType::External => JsArg::Other("an external value"),
        ValueType::Unknown => JsArg::Other("a value of unknown type"),
    })
}

fn read_object(value: &Unknown<'_>, depth: usize) -> Result<JsArg> {
    if value.is_typedarray()? {
        // SAFETY: it is a typed array, and the cast itself refuses one that is not of bytes.
        return Ok(match unsafe { value.cast::<Uint8ArraySlice<'_>>() } {
            Ok(bytes) => JsArg::Bytes(bytes.to_vec()),
            Err(_) => JsArg::Other("a typed array that is no Uint8Array"),
        });
    }
    if depth >= MAX_DEPTH {
        return Ok(JsArg::Other("an object nested too deep"));
    }
    // SAFETY: the type of the value was asked for before.
    let object: Object<'_> = unsafe { value.cast() }?;
    if value.is_array()? {
        let length = object.get_array_length()?;
        let items = (0..length).map(|index| read(&object.get_element::<Unknown<'_>>(index)?, depth + 1));
        return Ok(JsArg::Array(items.collect::<Result<_>>()?));
    }
    let names = object.get_all_property_names(
        KeyCollectionMode::OwnOnly,
        KeyFilter::Enumerable,
        KeyConversion::NumbersToStrings,
    )?;
    let mut entries = Vec::new();
    for index in 0..names.get_array_length()? {
        let name: Unknown<'_> = names.get_element(index)?;
        if name.get_type()? != ValueType::String {
            continue;
        }
        let entry: Unknown<'_> = object.get_property(name)?;
        // SAFETY: the type of the name was asked for above.
        entries.push((unsafe { name.cast() }?, read(&entry, depth + 1)?));
    }
    Ok(JsArg::Object(entries))
}

/// Declares a struct that becomes a plain JavaScript object and is no part of the public types: napi would declare it.
/// A missing optional field is left out.
macro_rules! internal_object {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $field:ident as $key:literal: $type:ty,)*
            ..
            $($(#[$optional_doc:meta])* $optional:ident as $optional_key:literal: $optional_type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Default)]
        #[allow(unreachable_pub, reason = "the functions that napi-derive exports are public")]
        pub struct $name {
            $($(#[$doc])* pub(crate) $field: $type,)*
            $($(#[$optional_doc])* pub(crate) $optional: Option<$optional_type>,)*
        }

        impl napi::bindgen_prelude::TypeName for $name {
            fn type_name() -> &'static str {
                stringify!($name)
            }

            fn value_type() -> napi::ValueType {
                napi::ValueType::Object
            }
        }

        #[allow(unsafe_code)]
        impl napi::bindgen_prelude::ToNapiValue for $name {
            unsafe fn to_napi_value(env: napi::sys::napi_env, value: Self) -> napi::Result<napi::sys::napi_value> {
                use napi::bindgen_prelude::Object;
                let environment = napi::Env::from_raw(env);
                let mut object = Object::new(&environment)?;
                $(object.set($key, value.$field)?;)*
                $(if let Some(field) = value.$optional {
                    object.set($optional_key, field)?;
                })*
                // SAFETY: the environment is the one the object was just made in.
                unsafe { Object::to_napi_value(env, object) }
            }
        }
    };
}
pub(crate) use internal_object;
