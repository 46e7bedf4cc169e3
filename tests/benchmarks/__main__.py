"""All benchmarks, one table after the other: `python tests/benchmarks`."""

import bench_derivation
import bench_descent
import bench_dynamics
import bench_paths
import bench_points
import bench_regions
import bench_sweeps
import bench_two_time

bench_dynamics.main()
print()
bench_derivation.main()
print()
bench_paths.main()
print()
bench_descent.main()
print()
bench_regions.main()
print()
bench_sweeps.main()
print()
bench_points.main()
print()
bench_two_time.main()
