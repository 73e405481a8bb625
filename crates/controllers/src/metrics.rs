//! What the controllers count, under upstream's names.

pub(crate) mod queues;
pub(crate) mod slices;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use self::queues::Queues;
use self::slices::SliceMetrics;

/// All metrics of the controllers.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(crate) slices: SliceMetrics,
    pub(crate) queues: Queues,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let slices = SliceMetrics::new(&mut registry);
        let queues = Queues::new(&mut registry);
        Self { registry, slices, queues }
    }
}

impl Metrics {
    /// Everything, as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        text
    }
}
