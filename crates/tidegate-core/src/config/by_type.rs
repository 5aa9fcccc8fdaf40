//! Settings that come in several forms, of which the key `type` chooses one.

/// Declares an enum whose form is chosen by the key `type`, each variant with its own settings struct.
///
/// Derived `#[serde(tag = "type")]` would copy the mapping into a buffer first and so lose the lines of its keys;
/// this reads them in place, so that a wrong key inside is reported with its line and the nearest valid key.
/// The JSON form, written and read back by anything but the loader's own reader, and the schema are those of `tag = "type"`.
///
/// ```
/// #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// pub struct Bell { /// How loud.
///     pub volume: u8 }
///
/// tidegate_core::config_by_type! {
///     /// What makes a noise.
///     #[derive(Debug, Clone, PartialEq)]
///     pub enum Noise {
///         /// Rings.
///         "bell" => Bell(Bell),
///     }
/// }
///
/// let noise = Noise::Bell(Bell { volume: 3 });
/// assert_eq!(serde_json::to_string(&noise).unwrap(), r#"{"type":"bell","volume":3}"#);
/// let read: Noise = tidegate_core::config::load("{ type: bell, volume: 3 }", "noise.yaml", &tidegate_core::config::NoReferences).unwrap();
/// assert_eq!(read, noise);
/// ```
#[macro_export]
macro_rules! config_by_type {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident {
            $($(#[$variant_attribute:meta])* $kind:literal => $variant:ident($settings:ty)),+ $(,)?
        }
    ) => {
        $(#[$attribute])*
        #[derive(::serde::Deserialize, ::schemars::JsonSchema)]
        #[schemars(tag = "type")]
        $visibility enum $name {
            $($(#[$variant_attribute])* #[serde(rename = $kind)] $variant($settings)),+
        }

        impl $name {
            /// The words of the key `type`.
            pub const TYPES: &'static [&'static str] = &[$($kind),+];

            /// Returns the word of the key `type`.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind),+ }
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, to: S) -> ::core::result::Result<S::Ok, S::Error> {
                #[derive(::serde::Serialize)]
                struct Form<'a, T> {
                    r#type: &'a str,
                    #[serde(flatten)]
                    settings: &'a T,
                }
                match self {
                    $(Self::$variant(settings) => ::serde::Serialize::serialize(&Form { r#type: $kind, settings }, to)),+
                }
            }
        }
    };
}
