"""All benchmarks, one table after the other: `python tests/benchmarks`."""

import bench_derivation
import bench_dynamics
import bench_paths

bench_dynamics.main()
print()
bench_derivation.main()
print()
bench_paths.main()
