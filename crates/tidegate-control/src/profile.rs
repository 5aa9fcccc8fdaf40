//! Profiles: the paths, documents and metric names by which an older system was operated, on a listener of their own
//! beside everything that a listener has. A profile is one file and one line in the list.
//!
//! **Invariant:** a profile only renders. What it shows is what the node's own names show, so both can be compared.

mod document_editor;
mod figures;
mod signal_client;
mod witness;

use std::sync::{Arc, OnceLock};

use tidegate_core::{
    clock::Clock,
    names::GroupName,
    notice::{Notice, Notices},
};

pub(crate) use self::figures::Figure;
pub use self::figures::FigureSpec;
use self::{figures::Count, witness::Witness};
use crate::{api::Route, metrics::alias::Alias};

/// Names by which an older system was operated.
#[derive(Debug)]
pub struct Profile {
    /// The word in the configuration.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Port of a listener that names no address.
    pub port: Option<u16>,
    /// Whether its documents can be about one group only.
    pub of_group: bool,
    /// Figures that are no metric of the node under another name.
    pub figures: &'static [&'static FigureSpec],
    /// What the older system's log said where the node has a notice; none = it said nothing.
    pub phrase: fn(&Notice) -> Option<String>,
    /// Routes beside those of the API, or in their place.
    pub(crate) routes: &'static [Route],
    /// Metrics beside those of the catalogue.
    pub(crate) aliases: &'static [Alias],
    /// Counts up the figures.
    pub(crate) count: Count,
}

/// A profile that adds nothing: what the others begin with.
const PLAIN: Profile = Profile {
    name: "",
    summary: "",
    port: None,
    of_group: false,
    figures: &[],
    phrase: |_| None,
    routes: &[],
    aliases: &[],
    count: |_, _| Box::pin(async { Ok(Vec::new()) }),
};

/// Every profile.
pub static PROFILES: &[&Profile] = &[
    &signal_client::PROFILE,
    &document_editor::backend::PROFILE,
    &document_editor::relay::PROFILE,
    &document_editor::consumer::PROFILE,
];

/// A profile on a listener.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The profile.
    pub profile: &'static Profile,
    /// The group that its documents are about; none = all.
    pub group: Option<GroupName>,
}

impl Profile {
    /// Finds a profile by its word.
    pub fn find(name: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|profile| profile.name == name).copied()
    }

    /// Returns the metrics it adds: name, metric of the node, labels as they are called and as the node calls them.
    pub fn metrics(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, &'static [(&'static str, &'static str)])> {
        self.aliases.iter().map(|alias| (alias.name, alias.of.name, alias.labels))
    }

    /// Returns the paths it adds or takes the place of.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.routes.iter().map(|route| route.path)
    }
}

/// What profiles remember of the node, from the first listener with a profile on.
#[derive(Debug, Default)]
pub(crate) struct Memory(OnceLock<Arc<Witness>>);

impl Memory {
    /// Returns what was seen; none without a listener that shows it.
    fn witness(&self) -> Option<&Witness> {
        self.0.get().map(|witness| &**witness)
    }

    /// Starts to remember.
    pub(crate) fn begin(&self, notices: &Notices, clock: &Clock) {
        self.0.get_or_init(|| {
            let witness = Arc::new(Witness::new(clock.clone()));
            notices.listen(Arc::<Witness>::clone(&witness));
            witness
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::ROUTES, metrics::catalogue};

    #[test]
    fn a_profile_takes_no_metric_of_the_node_and_names_labels_that_there_are() {
        for profile in PROFILES {
            for alias in profile.aliases {
                assert!(catalogue::ALL.iter().all(|own| own.name != alias.name), "{}", alias.name);
                assert!(alias.labels.iter().all(|(_, own)| alias.of.labels.contains(own)), "{}", alias.name);
                assert!(alias.only.iter().all(|(label, _)| alias.of.labels.contains(label)), "{}", alias.name);
            }
            let names = profile.aliases.iter().map(|alias| alias.name);
            let mut names: Vec<_> = names.chain(profile.figures.iter().map(|figure| figure.name)).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{}", profile.name);
        }
    }

    #[test]
    fn a_profile_takes_the_place_of_what_tells_of_the_node_only() {
        for profile in PROFILES {
            for route in profile.routes.iter().filter(|route| ROUTES.iter().any(|own| own.path == route.path)) {
                assert!(["/health", "/health/detailed", "/metrics"].contains(&route.path), "{}", route.path);
            }
        }
    }
}
