//! Profiles: the paths, documents and metric names by which an older system was operated, on a listener of their own
//! beside everything that a listener has. A profile is one file and one line in the list.
//!
//! **Invariant:** a profile only renders. What it shows is what the node's own names show, so both can be compared.

mod signal_client;

use crate::{api::Route, metrics::alias::Alias};

/// Names by which an older system was operated.
#[derive(Debug)]
pub struct Profile {
    /// The word in the configuration.
    pub name: &'static str,
    /// One line for lists.
    pub summary: &'static str,
    /// Routes beside those of the API.
    pub(crate) routes: &'static [Route],
    /// Metrics beside those of the catalogue.
    pub(crate) aliases: &'static [Alias],
}

/// Every profile.
pub static PROFILES: &[&Profile] = &[&signal_client::PROFILE];

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

    /// Returns the paths it adds.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.routes.iter().map(|route| route.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::ROUTES, metrics::catalogue};

    #[test]
    fn a_profile_takes_no_name_of_the_node_and_names_labels_that_there_are() {
        for profile in PROFILES {
            for route in profile.routes {
                assert!(ROUTES.iter().all(|own| own.path != route.path), "{} in {}", route.path, profile.name);
            }
            for alias in profile.aliases {
                assert!(catalogue::ALL.iter().all(|own| own.name != alias.name), "{}", alias.name);
                assert!(alias.labels.iter().all(|(_, own)| alias.of.labels.contains(own)), "{}", alias.name);
                assert!(alias.only.iter().all(|(label, _)| alias.of.labels.contains(label)), "{}", alias.name);
            }
        }
    }
}
