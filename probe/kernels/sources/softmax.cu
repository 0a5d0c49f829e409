// Softmax of the logits of many probes, each logit brought from memory once: `residuals` leaves the
// gradient of the loss where the logits were, `judged` says where the label ranks.
//
// A row of a probe is held by `lanes` threads, which take its classes in turn; a block holds
// blockDim.x / lanes rows of one probe. Where rows are innermost in memory (`rows_fast`)
// neighbouring threads hold neighbouring rows, else neighbouring classes: either way they read
// neighbouring addresses. A first sweep over the classes finds the maximum and the sum of powers
// together; a second writes. What the second reads again, the first has left in the caches, since
// what all blocks on a device hold at a time is smaller than its L2.
//
// There are no warp intrinsics and no atomics: the same inputs give the same bits, and the same
// text compiles for a host. blockDim.x and lanes are powers of two.

extern __shared__ double workspace[];

template <class T>
__device__ T infinity() {
    T zero = 0;
    return 1 / zero;
}

// A sum of exp(x - from) as one of exp(x - to); equal infinities leave it as it is.
template <class T>
__device__ T moved(T sum, T from, T to) {
    return from == to ? sum : sum * exp(from - to);
}

// The maximum of some logits and the sum of exp(x - largest) over them.
template <class T>
struct Powers {
    T largest;
    T sum;

    __device__ void take(T x) {
        // no branches: what is selected away may be anything
        T power = x == -infinity<T>() ? 0 : exp(x > largest ? largest - x : x - largest);
        sum = x > largest ? sum * power + 1 : sum + power;
        largest = x > largest ? x : largest;
    }

    __device__ void merge(Powers other) {
        T to = other.largest > largest ? other.largest : largest;
        sum = moved(sum, largest, to) + moved(other.sum, other.largest, to);
        largest = to;
    }
};

// Where logits (outer, inner, rows, classes) lie, in elements.
struct Layout {
    long long rows;
    long long classes;
    long long inner;
    long long outer_stride;
    long long inner_stride;
    long long row_stride;
    long long class_stride;
    long long lanes;
    long long rows_fast;
};

// What one thread works on.
struct Place {
    int held;         // rows of the block
    int slot;         // which of them is this thread's
    int lane;         // which of the row's threads it is
    long long probe;
    long long row;
    bool inside;      // whether there is such a row
    long long start;  // its first logit

    __device__ Place(const Layout& layout) {
        int lanes = (int)layout.lanes, thread = threadIdx.x;
        held = blockDim.x / lanes;
        slot = layout.rows_fast ? thread % held : thread / lanes;
        lane = layout.rows_fast ? thread / held : thread % lanes;
        long long tiles = (layout.rows + held - 1) / held;
        probe = blockIdx.x / tiles;
        row = (blockIdx.x % tiles) * held + slot;
        inside = row < layout.rows;
        start = probe / layout.inner * layout.outer_stride
              + probe % layout.inner * layout.inner_stride + row * layout.row_stride;
    }
};

// Logits that a thread has on their way at a time: one after the other, memory would never be busy.
constexpr int TOGETHER = 4;

// A thread's next logits, from class c on; minus infinity where there are no more.
template <class T>
__device__ void fetch(T* x, const T* line, long long c, const Layout& layout) {
    #pragma unroll
    for (int k = 0; k < TOGETHER; k++, c += layout.lanes) {
        x[k] = c < layout.classes ? line[c * layout.class_stride] : -infinity<T>();
    }
}

// The powers of a whole row, from those of its lanes; every thread of the row gets them.
template <class T>
__device__ Powers<T> gathered(Powers<T> own, const Place& place, int lanes) {
    Powers<T>* all = (Powers<T>*)workspace;
    int here = place.lane * place.held + place.slot;
    all[here] = own;
    for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (place.lane < half) all[here].merge(all[here + half * place.held]);
    }
    __syncthreads();
    Powers<T> whole = all[place.slot];
    __syncthreads();  // the workspace may be used again
    return whole;
}

// losses: for each block the sum over its rows. The label's entry is minus the sum of the others,
// and not p - 1, so that it keeps its digits where p is nearly 1; its loss likewise.
template <class T>
__device__ void residuals(T* logits, const long long* labels, double* losses, T scale,
                          const Layout& layout) {
    Place place(layout);
    int lanes = (int)layout.lanes;
    T* line = logits + place.start;
    long long label = place.inside ? labels[place.row] : 0;
    T own = place.inside ? line[label * layout.class_stride] : 0;
    Powers<T> others = {-infinity<T>(), 0};
    T x[TOGETHER];
    long long last = place.inside ? layout.classes : 0;
    for (long long first = place.lane; first < last; first += TOGETHER * lanes) {
        fetch(x, line, first, layout);
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            others.take(first + k * lanes == label ? -infinity<T>() : x[k]);
        }
    }
    others = gathered(others, place, lanes);
    T largest = others.largest > own ? others.largest : own;
    // nothing is left of logits that are all minus infinity, or one of which is plus infinity
    T rest = moved(others.sum, others.largest, largest) + (largest - largest);
    T weight = exp(own - largest);
    T share = scale / (rest + weight);
    for (long long first = place.lane; first < last; first += TOGETHER * lanes) {
        fetch(x, line, first, layout);
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            long long c = first + k * lanes;
            T value = c == label ? -rest * share : exp(x[k] - largest) * share;
            if (c < last) line[c * layout.class_stride] = value;
        }
    }
    if (place.lane == 0) {
        double loss = log1p(rest + (weight - 1)) - (own - largest);
        workspace[place.slot] = place.inside ? loss : 0;
    }
    for (int half = place.held / 2; half > 0; half /= 2) {
        __syncthreads();
        if (place.lane == 0 && place.slot < half) {
            workspace[place.slot] += workspace[place.slot + half];
        }
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = workspace[0];
}

// For each (probe, row): how many classes come before the label, by logit and then by index;
// -log softmax of the label; and the largest probability. NaN comes before and after nothing.
template <class T>
__device__ void judged(const T* logits, const long long* labels, int* ranks, double* surprises,
                       double* confidences, const Layout& layout) {
    Place place(layout);
    int lanes = (int)layout.lanes;
    const T* line = logits + place.start;
    long long label = place.inside ? labels[place.row] : 0;
    T own = place.inside ? line[label * layout.class_stride] : 0;
    Powers<T> all = {-infinity<T>(), 0};
    int before = own != own && place.lane == 0;
    T x[TOGETHER];
    long long last = place.inside ? layout.classes : 0;
    for (long long first = place.lane; first < last; first += TOGETHER * lanes) {
        fetch(x, line, first, layout);
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            long long c = first + k * lanes;
            all.take(x[k]);
            bool behind = x[k] < own || (x[k] == own && c > label);
            before += c < last && c != label && !behind;
        }
    }
    all = gathered(all, place, lanes);
    int* counts = (int*)workspace;
    int here = place.lane * place.held + place.slot;
    counts[here] = before;
    for (int half = lanes / 2; half > 0; half /= 2) {
        __syncthreads();
        if (place.lane < half) counts[here] += counts[here + half * place.held];
    }
    if (place.lane == 0 && place.inside) {
        long long out = place.probe * layout.rows + place.row;
        double sum = all.sum + (all.largest - all.largest);
        ranks[out] = counts[here];
        surprises[out] = log(sum) + (double)(all.largest - own);
        confidences[out] = 1 / sum;
    }
}

// bounds the registers, so that a block may have 1,024 threads
#define KERNEL extern "C" __global__ void __launch_bounds__(1024)
#define LAYOUT                                                                             \
    long long rows, long long classes, long long inner, long long outer_stride,            \
    long long inner_stride, long long row_stride, long long class_stride, long long lanes, \
    long long rows_fast
#define GIVEN                                                                              \
    {rows, classes, inner, outer_stride, inner_stride, row_stride, class_stride, lanes,    \
     rows_fast}

KERNEL residuals_float32(float* logits, const long long* labels, double* losses, float scale,
                         LAYOUT) {
    residuals(logits, labels, losses, scale, Layout GIVEN);
}

KERNEL residuals_float64(double* logits, const long long* labels, double* losses, double scale,
                         LAYOUT) {
    residuals(logits, labels, losses, scale, Layout GIVEN);
}

KERNEL judged_float32(const float* logits, const long long* labels, int* ranks, double* surprises,
                      double* confidences, LAYOUT) {
    judged(logits, labels, ranks, surprises, confidences, Layout GIVEN);
}

KERNEL judged_float64(const double* logits, const long long* labels, int* ranks, double* surprises,
                      double* confidences, LAYOUT) {
    judged(logits, labels, ranks, surprises, confidences, Layout GIVEN);
}
