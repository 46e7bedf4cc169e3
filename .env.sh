export PATH=/opt/venvs/hc/bin:$PATH DMFT_CACHE_DIR=/opt/cache/hc OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
