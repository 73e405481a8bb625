//! The proxy's configuration: as it stands in a file, and checked, with defaults.

pub mod duration;
pub mod load;
mod settings;
pub mod types;

pub use settings::{DetectLocal, Mode, NodePorts, Settings, SettingsError};

/// The version of the configuration.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// Its kind.
pub const KIND: &str = "KubeProxyConfiguration";
