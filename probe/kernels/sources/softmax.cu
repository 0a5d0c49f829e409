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

// By its bits: 1 / zero is a division that no compiler folds, in the innermost loops.
template <class T>
__device__ T infinity();

template <>
__device__ float infinity<float>() {
    return __int_as_float(0x7f800000);
}

template <>
__device__ double infinity<double>() {
    return __longlong_as_double(0x7ff0000000000000);
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

// A thread on its way along the classes of its row. A class is counted in 32 bits, and its address
// stepped to: a product of 64 bits for each logit would take as long as its exponential.
template <class T>
struct Walk {
    int first;       // the class of the thread's next logit
    int lanes;       // from one of its classes to the next
    int classes;     // none in a row that there is not
    long long step;  // from one of its logits to the next, in elements
    T* at;           // its next logit

    __device__ Walk(T* line, const Place& place, const Layout& layout)
        : first(place.lane), lanes((int)layout.lanes),
          classes(place.inside ? (int)layout.classes : 0),
          step(layout.lanes * layout.class_stride),
          at(line + place.lane * layout.class_stride) {}

    __device__ bool left() const { return first < classes; }
    __device__ int number(int k) const { return first + k * lanes; }
    __device__ bool has(int k) const { return number(k) < classes; }

    __device__ void next() {
        first += TOGETHER * lanes;
        at += TOGETHER * step;
    }

    // The next logits; minus infinity where there are no more.
    template <class U>
    __device__ void fetch(U* x) const {
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) x[k] = has(k) ? at[k * step] : -infinity<U>();
    }
};

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
    int label = place.inside ? (int)labels[place.row] : 0;
    T own = place.inside ? line[label * layout.class_stride] : 0;
    Powers<T> others = {-infinity<T>(), 0};
    T x[TOGETHER];
    for (Walk<T> walk(line, place, layout); walk.left(); walk.next()) {
        walk.fetch(x);
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            others.take(walk.number(k) == label ? -infinity<T>() : x[k]);
        }
    }
    others = gathered(others, place, lanes);
    T largest = others.largest > own ? others.largest : own;
    // nothing is left of logits that are all minus infinity, or one of which is plus infinity
    T rest = moved(others.sum, others.largest, largest) + (largest - largest);
    T weight = exp(own - largest);
    T share = scale / (rest + weight);
    for (Walk<T> walk(line, place, layout); walk.left(); walk.next()) {
        walk.fetch(x);
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            T value = walk.number(k) == label ? -rest * share : exp(x[k] - largest) * share;
            if (walk.has(k)) walk.at[k * walk.step] = value;
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
    int label = place.inside ? (int)labels[place.row] : 0;
    T own = place.inside ? line[label * layout.class_stride] : 0;
    Powers<T> all = {-infinity<T>(), 0};
    int before = own != own && place.lane == 0;
    T x[TOGETHER];
    for (Walk<const T> walk(line, place, layout); walk.left(); walk.next()) {
        walk.fetch(x);
        #pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            all.take(x[k]);
            bool behind = x[k] < own || (x[k] == own && walk.number(k) > label);
            before += walk.has(k) && walk.number(k) != label && !behind;
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
