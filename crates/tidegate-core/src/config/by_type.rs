//! Settings that come in several forms, of which the key `type` chooses one.

/// Name under which the loader recognises such a setting.
pub(super) const BY_TYPE: &str = "$tidegate::by_type";

/// Declares an enum whose form is chosen by the key `type`, each variant with its own settings struct.
///
/// Derived `#[serde(tag = "type")]` copies a mapping into a buffer first and so loses the lines of its keys, and with
/// them the proof that a secret came by reference. The loader reads an enum declared here in place; every other
/// reader, every writer and the schema see `tag = "type"`.
///
/// ```
/// /// Rings.
/// #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
/// pub struct Bell {
///     /// How loud.
///     pub volume: u8,
/// }
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
/// let noise: Noise = serde_json::from_str(r#"{"type": "bell", "volume": 3}"#).unwrap();
/// assert_eq!(noise, Noise::Bell(Bell { volume: 3 }));
/// assert_eq!(serde_json::to_string(&noise).unwrap(), r#"{"type":"bell","volume":3}"#);
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
        #[derive(::serde::Serialize, ::schemars::JsonSchema)]
        #[serde(tag = "type")]
        $visibility enum $name {
            $($(#[$variant_attribute])* #[serde(rename = $kind)] $variant($settings)),+
        }

        impl $name {
            /// The words of the key `type`.
            $visibility const TYPES: &'static [&'static str] = &[$($kind),+];

            /// Returns the word of the key `type`.
            $visibility fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => $kind),+ }
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(from: D) -> ::core::result::Result<Self, D::Error> {
                #[derive(::serde::Deserialize)]
                enum InPlace {
                    $(#[serde(rename = $kind)] $variant($settings)),+
                }

                #[derive(::serde::Deserialize)]
                #[serde(tag = "type")]
                enum Buffered {
                    $(#[serde(rename = $kind)] $variant($settings)),+
                }

                $crate::config::read_by_type(from, |either: $crate::config::ByType<InPlace, Buffered>| match either {
                    $(
                        $crate::config::ByType::InPlace(InPlace::$variant(settings))
                        | $crate::config::ByType::Buffered(Buffered::$variant(settings)) => Self::$variant(settings)
                    ),+
                })
            }
        }
    };
}

/// How a setting with a `type` was read; only [`config_by_type!`](crate::config_by_type) needs it.
#[derive(Debug)]
pub enum ByType<I, B> {
    /// By the loader.
    InPlace(I),
    /// By another reader.
    Buffered(B),
}

/// Reads a setting with a `type`; only [`config_by_type!`](crate::config_by_type) needs it.
pub fn read_by_type<'de, D, I, B, T>(from: D, make: fn(ByType<I, B>) -> T) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    I: serde::Deserialize<'de>,
    B: serde::Deserialize<'de>,
{
    struct Either<I, B>(std::marker::PhantomData<(I, B)>);

    impl<'de, I: serde::Deserialize<'de>, B: serde::Deserialize<'de>> serde::de::Visitor<'de> for Either<I, B> {
        type Value = ByType<I, B>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a mapping with the key \"type\"")
        }

        fn visit_enum<A: serde::de::EnumAccess<'de>>(self, choice: A) -> Result<Self::Value, A::Error> {
            I::deserialize(serde::de::value::EnumAccessDeserializer::new(choice)).map(ByType::InPlace)
        }

        fn visit_newtype_struct<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            B::deserialize(from).map(ByType::Buffered)
        }
    }

    from.deserialize_newtype_struct(BY_TYPE, Either(std::marker::PhantomData)).map(make)
}
