//! One pod of a Service changes: what the EndpointSlice controller spends on it, API server aside.
//!
//! Each round ends when a look finds nothing more to write, so it is two looks at the Service.
//! `remembered` should hardly grow with the Service; `restarted` makes every endpoint anew.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use portolan_controllers::bench::SlicesOf;

fn one_pod(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("one_pod_of");
    group.sample_size(20);
    for pods in [100, 1000, 5000] {
        let mut slices = SlicesOf::new(pods);
        let mut number = 0;
        group.bench_function(BenchmarkId::new("remembered", pods), |bencher| {
            bencher.iter(|| {
                number += 1;
                slices.one_pod_changes((number - 1) / 2 * 37 % pods, number % 2 == 0)
            });
        });
        group.bench_function(BenchmarkId::new("restarted", pods), |bencher| {
            bencher.iter(|| {
                number += 1;
                let (pod, ready) = ((number - 1) / 2 * 37 % pods, number % 2 == 0);
                slices.one_pod_changes_after_a_restart(pod, ready)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, one_pod);
criterion_main!(benches);
