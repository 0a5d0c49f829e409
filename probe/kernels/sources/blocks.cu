// The blocks of a symmetric matrix (width, width) that systems take of it, each in an order of its
// own and with a penalty on its diagonal: out[s][i][j] = matrix[o_si][o_sj] + (i == j) penalty_s.
//
// A block of threads writes one line of one system. It reads one line of the matrix, which stays in
// the caches however scattered its columns are taken.

extern "C" __global__ void permuted_blocks(const double* matrix, const long long* orders,
                                           const double* penalties, double* out, long long width,
                                           long long length) {
    long long system = blockIdx.x / length, i = blockIdx.x % length;
    const long long* order = orders + system * length;
    const double* line = matrix + order[i] * width;
    double* target = out + (system * length + i) * length;
    for (long long j = threadIdx.x; j < length; j += blockDim.x) {
        target[j] = line[order[j]] + (i == j ? penalties[system] : 0);
    }
}
