// The one inner loop of this library: a tile of a Product, its sums held in registers.
//
// Included once for each instruction set, inside its namespace and target pragmas: hence no include
// guard and no includes. `Ops` says what a vector is:
//   Elem, Sum          types of the numbers in A and B, and in C
//   V, kLanes          a vector of sums, and how many it holds
//   BVector            as many Elem
//   Zero(), Load(const Elem*), Broadcast(const Elem*), MulAdd(a, b, sum), LoadSums(const Sum*),
//   Add(V, V), Store(V, Sum*)
//   Stored             the type of a number in A and B: Elem, or what it holds two of
//   kRegisters         how many V the machine holds
//   kChains            1, or 2 if eight sums are too few to hide the latency of MulAdd

// The rows of A in a tile when depth is contiguous: row i at first[i * stride]. A pointer for every
// four rows and two multiples of the stride reach all of them by addressing modes alone; a pointer
// for each row would run out of registers.
template <typename Elem, int kRows>
class DistantRows {
 public:
  HWY_INLINE DistantRows(const Elem* first, int64_t row_stride)
      : stride_(row_stride), stride3_(3 * row_stride) {
#pragma GCC unroll 6
    for (int i = 0; i < kBases; ++i) base_[i] = first + 4 * i * row_stride;
  }

  HWY_INLINE const Elem* operator[](int row) const {
    return base_[row / 4] + (row % 4 == 3 ? stride3_ : row % 4 * stride_);
  }

  HWY_INLINE void Advance() {
#pragma GCC unroll 6
    for (int i = 0; i < kBases; ++i) ++base_[i];
  }

 private:
  static constexpr int kBases = (kRows + 3) / 4;

  const Elem* base_[kBases];
  int64_t stride_, stride3_;
};

// The rows of A in a tile when rows are contiguous: row i at first[i].
template <typename Elem, int kRows>
class AdjacentRows {
 public:
  HWY_INLINE AdjacentRows(const Elem* first, int64_t depth_stride)
      : base_(first), stride_(depth_stride) {}

  HWY_INLINE const Elem* operator[](int row) const { return base_ + row; }

  HWY_INLINE void Advance() { base_ += stride_; }

 private:
  const Elem* base_;
  int64_t stride_;
};

// The rows of A in a tile of packed activations, whose distance is known: one pointer will do.
template <int kStride>
struct PackedBy {
  template <typename Elem, int kRows>
  class Rows {
   public:
    HWY_INLINE Rows(const Elem* first, int64_t) : base_(first) {}

    HWY_INLINE const Elem* operator[](int row) const { return base_ + row * kStride; }

    HWY_INLINE void Advance() { ++base_; }

   private:
    const Elem* base_;
  };
};

// sums += the product of one column of A and one row of B.
template <class Ops, int kRows, int kVectors, class RowsOfA>
HWY_INLINE void AddOuterProduct(const RowsOfA& a, const typename Ops::Elem* b,
                                typename Ops::V (&sums)[kRows][kVectors]) {
  typename Ops::BVector b_vectors[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) b_vectors[v] = Ops::Load(b + v * Ops::kLanes);
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
    const auto a_i = Ops::Broadcast(a[i]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Ops::MulAdd(a_i, b_vectors[v], sums[i][v]);
  }
}

// Shares out what parts prefetch `ahead` among the tiles of a product: each takes `step` bytes.
struct Ahead {
  Ahead(int64_t bytes, int64_t tiles)
      : end(bytes), step((bytes + 64 * tiles - 1) / (64 * tiles) * 64) {}

  int64_t begin = 0, end, step;
};

// The rows of B that follow those of `part`: of the next part, or at the end the first one of the
// next strip, or of the next product.
template <int kColumns, typename Elem>
HWY_INLINE const Elem* NextB(const Product<Elem>& p, const typename Product<Elem>::Part* part,
                             int64_t j0) {
  if (part + 1 != p.parts + p.num_parts) return p.b + part[1].b + j0;
  if (j0 + kColumns < p.columns) return p.b + p.parts->b + j0 + kColumns;
  return p.b + part[1].b;
}

HWY_INLINE void PrefetchToL2(const char* p) { __builtin_prefetch(p, 0, 2); }

// `kChains` chains of sums take turns along the depth, where one would not hide the latency of an
// addition.
template <class Ops, template <typename, int> class RowsOfA, int kRows, int kVectors,
          int kChains = 1>
HWY_NOINLINE void MultiplyTile(const Product<typename Ops::Elem>& p, int64_t i0, int64_t j0,
                               Ahead* ahead) {
  constexpr int kSteps = 4;
  using Elem = typename Ops::Elem;
  using Rows = RowsOfA<Elem, kRows>;
  constexpr bool kAdjacent = std::is_same<Rows, AdjacentRows<Elem, kRows>>::value;
  const int64_t a_stride = kAdjacent ? p.a_depth_stride : p.a_row_stride;
  const int64_t a_offset = kAdjacent ? i0 : i0 * a_stride;
  const int64_t b_stride = p.b_stride;
  const int64_t ahead_begin = ahead->begin;
  const int64_t ahead_end = HWY_MIN(ahead->begin + ahead->step, ahead->end);
  ahead->begin = ahead_end;
  typename Ops::V sums[kChains][kRows][kVectors];
#pragma GCC unroll 2
  for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 24
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[chain][i][v] = Ops::Zero();
    }
  }
  auto* c = p.c + i0 * p.c_stride + j0;
  if (p.prefetches_c) {
    for (int i = 0; i < kRows; ++i) {
      auto* c_i = c + i * p.c_stride;
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(c_i + v * Ops::kLanes, 1);
    }
  }
  for (const auto *part = p.parts, *end = part + p.num_parts; part != end; ++part) {
    for (int64_t i = ahead_begin; i < ahead_end; i += 64) PrefetchToL2(part->ahead + i);
    Rows a(p.a + part->a + a_offset, a_stride);
    const Elem* b = p.b + part->b + j0;
    int64_t d = p.depth;
    const bool fetches = p.prefetches_b && i0 == 0;
    const Elem* next = fetches ? NextB<kVectors * Ops::kLanes>(p, part, j0) : b;
    if (kChains == 1) {
      for (; d >= kSteps; d -= kSteps) {
        if (fetches) {
          for (int step = 0; step < kSteps; ++step) {
            for (int v = 0; v < kVectors; ++v) __builtin_prefetch(next + v * Ops::kLanes);
            next += b_stride;
          }
        }
#pragma GCC unroll 4
        for (int step = 0; step < kSteps; ++step) {
          AddOuterProduct<Ops, kRows, kVectors>(a, b, sums[0]);
          a.Advance();
          b += b_stride;
        }
      }
    }
#pragma GCC unroll 4
    for (; d >= kChains; d -= kChains) {
#pragma GCC unroll 2
      for (int chain = 0; chain < kChains; ++chain) {
        AddOuterProduct<Ops, kRows, kVectors>(a, b, sums[chain]);
        a.Advance();
        b += b_stride;
      }
    }
    if (kChains > 1 && d > 0) AddOuterProduct<Ops, kRows, kVectors>(a, b, sums[0]);
  }
#pragma GCC unroll 24
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      typename Ops::V sum = sums[0][i][v];
      if (kChains > 1) sum = Ops::Add(sum, sums[kChains - 1][i][v]);
      auto* c_i = c + i * p.c_stride + v * Ops::kLanes;
      if (p.accumulate) sum = Ops::Add(Ops::LoadSums(c_i), sum);
      Ops::Store(sum, c_i);
    }
  }
}

// All columns of rows from i0 on, `kRows` at a time while there are as many, then half as many.
template <class Ops, template <typename, int> class RowsOfA, int kRows, int kVectors>
HWY_INLINE void MultiplyRowsFrom(const Product<typename Ops::Elem>& p, int64_t i0, Ahead* ahead) {
  for (; i0 + kRows <= p.rows; i0 += kRows) {
    for (int64_t j0 = 0; j0 < p.columns; j0 += kVectors * Ops::kLanes) {
      MultiplyTile<Ops, RowsOfA, kRows, kVectors>(p, i0, j0, ahead);
    }
  }
  if constexpr (kRows > 1) MultiplyRowsFrom<Ops, RowsOfA, kRows / 2, kVectors>(p, i0, ahead);
}

template <class Ops, template <typename, int> class RowsOfA, int kRows, int kVectors>
HWY_INLINE void MultiplyTallTiles(const Product<typename Ops::Elem>& p) {
  const int64_t strips = p.columns / (kVectors * Ops::kLanes);
  Ahead ahead(p.ahead_bytes, HWY_MAX(p.rows / kRows, 1) * strips);
  MultiplyRowsFrom<Ops, RowsOfA, kRows, kVectors>(p, 0, &ahead);
}

// A's rows are rows of activations, and C is narrow. A tile one vector wide needs a load for every
// MulAdd, and one more for all its rows: the more rows the better; but where each four of them take
// a pointer, there are not enough registers for those.
template <class Ops, int kVectors>
HWY_INLINE void MultiplyTall(const Product<typename Ops::Elem>& p) {
  constexpr int kSums = Ops::kRegisters == 32 ? 24 : 12;
  if constexpr (kVectors <= 2) {
    constexpr int kPairing = sizeof(typename Ops::Elem) / sizeof(typename Ops::Stored);
    constexpr int kStride = kVectors * Ops::kLanes / kPairing;
    if (p.a_row_stride == kStride) {
      return MultiplyTallTiles<Ops, PackedBy<kStride>::template Rows, kSums / kVectors, kVectors>(
          p);
    }
  }
  constexpr int kRows = kVectors == 1 ? 8 : kSums / kVectors;
  MultiplyTallTiles<Ops, DistantRows, kRows, kVectors>(p);
}

// A is a weight block (or, for weight gradients, as small), and C is wide.
template <class Ops, template <typename, int> class RowsOfA, int kVectors>
HWY_INLINE void MultiplyWideStrip(const Product<typename Ops::Elem>& p, int64_t j0, Ahead* ahead) {
  // kRows * kVectors sums, kVectors of B and one of A at a time.
  constexpr int kRows = 8 * kVectors + kVectors + 1 <= Ops::kRegisters ? 8 : 4;
  constexpr int kChains = kVectors == 1 ? Ops::kChains : 1;
  if constexpr (kVectors == 1 && kChains == 1 && Ops::kRegisters == 32) {
    if (p.rows % 16 == 0) {  // fewer loads for each MulAdd
      for (int64_t i0 = 0; i0 < p.rows; i0 += 16) {
        MultiplyTile<Ops, RowsOfA, 16, 1>(p, i0, j0, ahead);
      }
      return;
    }
  }
  for (int64_t i0 = 0; i0 < p.rows; i0 += kRows) {
    MultiplyTile<Ops, RowsOfA, kRows, kVectors, kChains>(p, i0, j0, ahead);
  }
}

template <class Ops, template <typename, int> class RowsOfA>
HWY_INLINE void MultiplyWide(const Product<typename Ops::Elem>& p) {
  int64_t vectors = p.columns / Ops::kLanes;
  int64_t j0 = 0;
  Ahead ahead(p.ahead_bytes, p.rows / 8 * ((vectors + 2) / 3));
  while (vectors > 0) {
    if (vectors == 1) {
      MultiplyWideStrip<Ops, RowsOfA, 1>(p, j0, &ahead);
      return;
    }
    const int64_t step = vectors == 2 || vectors == 4 ? 2 : 3;
    if (step == 2) {
      MultiplyWideStrip<Ops, RowsOfA, 2>(p, j0, &ahead);
    } else {
      MultiplyWideStrip<Ops, RowsOfA, 3>(p, j0, &ahead);
    }
    vectors -= step;
    j0 += step * Ops::kLanes;
  }
}

template <class Ops>
HWY_INLINE void MultiplyChain(const Product<typename Ops::Elem>& p) {
  const int64_t vectors = p.columns / Ops::kLanes;
  if (p.wide) {
    return p.a_row_stride == 1 ? MultiplyWide<Ops, AdjacentRows>(p)
                               : MultiplyWide<Ops, DistantRows>(p);
  }
  if (vectors % 4 == 0 && 6 * 4 + 4 + 1 <= Ops::kRegisters) return MultiplyTall<Ops, 4>(p);
  if (vectors % 2 == 0) return MultiplyTall<Ops, 2>(p);
  MultiplyTall<Ops, 1>(p);
}

template <class Ops>
HWY_INLINE void MultiplyWith(const Product<typename Ops::Elem>& product) {
  if (product.depth <= kDepthOfChain) return MultiplyChain<Ops>(product);
  Product<typename Ops::Elem> chain = product;
  for (int64_t d = 0; d < product.depth; d += kDepthOfChain) {
    chain.depth = HWY_MIN(product.depth - d, kDepthOfChain);
    chain.a = product.a + d * product.a_depth_stride;
    chain.b = product.b + d * product.b_stride;
    MultiplyChain<Ops>(chain);
    chain.accumulate = true;
  }
}

// Twos of A are broadcast as what they are, 64 bits.
template <class Ops, template <typename, int> class RowsOfA>
HWY_INLINE void MultiplyEightsOf(const ProductOfEights<typename Ops::Elem>& p, int64_t a_stride) {
  typename Ops::V sums[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sums[i] = Ops::Zero();
  RowsOfA<typename Ops::Two, 8> a(reinterpret_cast<const typename Ops::Two*>(p.a), a_stride);
  const typename Ops::Elem* b = p.b;
#pragma GCC unroll 4
  for (int64_t d = 0; d < p.depth; ++d, b += 16) {
    __builtin_prefetch(p.next_a + 16 * d);
    const auto b_vector = Ops::Load(b);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      sums[i] = Ops::MulAdd(Ops::BroadcastTwo(a[i]), b_vector, sums[i]);
    }
    a.Advance();
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    typename Ops::V sum = Ops::AddTwos(sums[i], sums[i + 1]);
    if (p.accumulate) sum = Ops::Add(Ops::LoadSums(p.c + 8 * i), sum);
    Ops::Store(sum, p.c + 8 * i);
  }
}

template <class Ops>
HWY_INLINE void MultiplyEightsWith(const ProductOfEights<typename Ops::Elem>& p) {
  if (p.a_row_stride == 1) return MultiplyEightsOf<Ops, AdjacentRows>(p, p.a_depth_stride);
  MultiplyEightsOf<Ops, DistantRows>(p, p.a_row_stride);
}
