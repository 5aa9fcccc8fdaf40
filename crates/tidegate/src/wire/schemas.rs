//! The schemas of streams, compiled once: who asks for them where.

use std::collections::BTreeMap;

use tidegate_core::{
    fault::{Fault, Result},
    names::StreamName,
};
use tidegate_engine::Publisher;
use tidegate_rules::Schema;

use crate::config::{Config, SchemaConfig};

/// Schemas by stream.
pub(super) struct Schemas<'c> {
    config: &'c Config,
    compiled: BTreeMap<StreamName, Schema>,
}

impl<'c> Schemas<'c> {
    /// Compiles the schemas of all streams that have one.
    pub(super) fn compile(config: &'c Config) -> Result<Self> {
        let given = config.streams.iter().filter_map(|(name, stream)| Some((name, stream.schema.as_ref()?)));
        let compiled = given.map(|(name, schema)| {
            let wrong = |(_, why)| Fault::invalid(why).within(format!("schema of stream {name}"));
            Ok((name.clone(), schema.compile().map_err(wrong)?))
        });
        Ok(Self { config, compiled: compiled.collect::<Result<_>>()? })
    }

    fn asked(&self, stream: &StreamName, when: fn(&SchemaConfig) -> bool) -> Option<&Schema> {
        let settings = self.config.streams.get(stream)?.schema.as_ref()?;
        self.compiled.get(stream).filter(|_| when(settings))
    }

    /// Tells the publisher what it must ask for.
    pub(super) fn guard(&self, publisher: &Publisher) -> Result<()> {
        let at_publish = self.compiled.keys().filter_map(|name| {
            let schema = self.asked(name, SchemaConfig::at_publish)?;
            Some((name.clone(), schema.clone()))
        });
        publisher.ask_for(at_publish.collect())
    }

    /// Returns what a group of the stream must ask for.
    pub(super) fn at_consume(&self, stream: &StreamName) -> Option<Schema> {
        self.asked(stream, SchemaConfig::at_consume).cloned()
    }

    /// Returns all of them.
    pub(super) fn all(self) -> BTreeMap<StreamName, Schema> {
        self.compiled
    }
}
