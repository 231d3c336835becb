// The one inner loop of this library: a tile of a Product, its sums held in registers.
//
// Included once for each instruction set, inside its namespace and target pragmas: hence no include
// guard and no includes. `Ops` says what a vector is:
//   Elem, Sum          types of the numbers in A and B, and in C
//   V, kLanes          a vector of sums, and how many it holds
//   BVector            as many Elem
//   Zero(), Load(const Elem*), Broadcast(const Elem*), MulAdd(a, b, sum), LoadSums(const Sum*),
//   Add(V, V), Store(V, Sum*)
//   kRegisters         how many V the machine holds
//   kChains            1, or 2 if eight sums are too few to hide the latency of MulAdd

// Sums over more depth than this are added up piecewise: a single chain of n additions has an error
// that grows with n, pieces keep it below what dense libraries have; and a tile's operands stay in
// the first-level cache.
constexpr int64_t kDepthOfChain = 128;

// The rows of A in a tile when depth is contiguous: row i at first[i * stride]. Two pointers and
// two multiples of the stride reach eight rows by addressing modes alone; a pointer for each row
// would run out of registers.
template <typename Elem>
class DistantRows {
 public:
  DistantRows(const Elem* first, int64_t row_stride)
      : base_{first, first + 4 * row_stride}, stride_(row_stride), stride3_(3 * row_stride) {}

  HWY_INLINE const Elem* operator[](int row) const {
    return base_[row / 4] + (row % 4 == 3 ? stride3_ : row % 4 * stride_);
  }

  HWY_INLINE void Advance() {
    ++base_[0];
    ++base_[1];
  }

 private:
  const Elem* base_[2];
  int64_t stride_, stride3_;
};

// The rows of A in a tile when rows are contiguous: row i at first[i].
template <typename Elem>
class AdjacentRows {
 public:
  AdjacentRows(const Elem* first, int64_t depth_stride) : base_(first), stride_(depth_stride) {}

  HWY_INLINE const Elem* operator[](int row) const { return base_ + row; }

  HWY_INLINE void Advance() { base_ += stride_; }

 private:
  const Elem* base_;
  int64_t stride_;
};

// sums += the product of one column of A and one row of B.
template <class Ops, int kRows, int kVectors, class RowsOfA>
HWY_INLINE void AddOuterProduct(const RowsOfA& a, const typename Ops::Elem* b,
                                typename Ops::V (&sums)[kRows][kVectors]) {
  typename Ops::BVector b_vectors[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) b_vectors[v] = Ops::Load(b + v * Ops::kLanes);
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    const auto a_i = Ops::Broadcast(a[i]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Ops::MulAdd(a_i, b_vectors[v], sums[i][v]);
  }
}

// `kChains` chains of sums take turns along the depth, where one would not hide the latency of an
// addition.
template <class Ops, template <typename> class RowsOfA, int kRows, int kVectors, int kChains = 1>
HWY_NOINLINE void MultiplyTile(const Product<typename Ops::Elem>& p, int64_t i0, int64_t j0) {
  using Elem = typename Ops::Elem;
  constexpr bool kDistant = std::is_same<RowsOfA<Elem>, DistantRows<Elem>>::value;
  const int64_t a_stride = kDistant ? p.a_row_stride : p.a_depth_stride;
  const int64_t a_offset = kDistant ? i0 * a_stride : i0;
  const int64_t b_stride = p.b_stride;
  typename Ops::V sums[kChains][kRows][kVectors];
#pragma GCC unroll 2
  for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[chain][i][v] = Ops::Zero();
    }
  }
  for (const auto *part = p.parts, *end = part + p.num_parts; part != end; ++part) {
    RowsOfA<Elem> a(p.a + part->a + a_offset, a_stride);
    const Elem* b = p.b + part->b + j0;
    int64_t d = p.depth;
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
  auto* c = p.c + i0 * p.c_stride + j0;
#pragma GCC unroll 16
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

// Tiles of `rows` <= kRows distant rows.
template <class Ops, int kRows, int kVectors>
HWY_INLINE void MultiplyTileOfAtMost(const Product<typename Ops::Elem>& p, int64_t rows, int64_t i0,
                                     int64_t j0) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return MultiplyTileOfAtMost<Ops, kRows - 1, kVectors>(p, rows, i0, j0);
  }
  MultiplyTile<Ops, DistantRows, kRows, kVectors>(p, i0, j0);
}

// A's rows are rows of activations, and C is narrow. Few rows at a time, as activations often have
// a large power of two for a stride: more rows would fall on the same set of an 8-way cache. Eight
// where there are but eight chains of sums, which hide the latency of an addition.
template <class Ops, int kVectors>
HWY_INLINE void MultiplyTall(const Product<typename Ops::Elem>& p) {
  constexpr int kMaxRows = kVectors == 1 ? 8 : 6;
  const int64_t groups = (p.rows + kMaxRows - 1) / kMaxRows;
  int64_t i0 = 0;
  for (int64_t group = 0; group < groups; ++group) {  // groups of about equal size
    const int64_t i1 = p.rows * (group + 1) / groups;
    for (int64_t j0 = 0; j0 < p.columns; j0 += kVectors * Ops::kLanes) {
      MultiplyTileOfAtMost<Ops, kMaxRows, kVectors>(p, i1 - i0, i0, j0);
    }
    i0 = i1;
  }
}

// A is a weight block (or, for weight gradients, as small), and C is wide.
template <class Ops, template <typename> class RowsOfA, int kVectors>
HWY_INLINE void MultiplyWideStrip(const Product<typename Ops::Elem>& p, int64_t j0) {
  // kRows * kVectors sums, kVectors of B and one of A at a time.
  constexpr int kRows = 8 * kVectors + kVectors + 1 <= Ops::kRegisters ? 8 : 4;
  constexpr int kChains = kVectors == 1 ? Ops::kChains : 1;
  for (int64_t i0 = 0; i0 < p.rows; i0 += kRows) {
    MultiplyTile<Ops, RowsOfA, kRows, kVectors, kChains>(p, i0, j0);
  }
}

template <class Ops, template <typename> class RowsOfA>
HWY_INLINE void MultiplyWide(const Product<typename Ops::Elem>& p) {
  int64_t vectors = p.columns / Ops::kLanes;
  int64_t j0 = 0;
  while (vectors > 0) {
    if (vectors == 1) {
      MultiplyWideStrip<Ops, RowsOfA, 1>(p, j0);
      return;
    }
    const int64_t step = vectors == 2 || vectors == 4 ? 2 : 3;
    if (step == 2) {
      MultiplyWideStrip<Ops, RowsOfA, 2>(p, j0);
    } else {
      MultiplyWideStrip<Ops, RowsOfA, 3>(p, j0);
    }
    vectors -= step;
    j0 += step * Ops::kLanes;
  }
}

template <class Ops>
HWY_INLINE void MultiplyPiece(const Product<typename Ops::Elem>& p) {
  const int64_t vectors = p.columns / Ops::kLanes;
  if (p.wide) {
    return p.a_row_stride == 1 ? MultiplyWide<Ops, AdjacentRows>(p)
                               : MultiplyWide<Ops, DistantRows>(p);
  }
  if (vectors % 4 == 0 && 6 * 4 + 4 + 1 <= Ops::kRegisters) return MultiplyTall<Ops, 4>(p);
  if (vectors % 2 == 0) return MultiplyTall<Ops, 2>(p);
  MultiplyTall<Ops, 1>(p);
}

// Cuts the depth of a product into chains.
template <class Ops>
HWY_INLINE void MultiplyWith(const Product<typename Ops::Elem>& product) {
  Product<typename Ops::Elem> piece = product;
  const auto* const end_of_parts = product.parts + product.num_parts;
  const int64_t parts_of_piece = HWY_MAX(kDepthOfChain / HWY_MAX(product.depth, 1), 1);
  for (int64_t d = 0; d == 0 || d < product.depth; d += kDepthOfChain) {
    piece.depth = HWY_MIN(product.depth - d, kDepthOfChain);
    piece.a = product.a + d * product.a_depth_stride;
    piece.b = product.b + d * product.b_stride;
    piece.parts = product.parts;
    do {  // once even without parts, to write zeros
      piece.num_parts = HWY_MIN(parts_of_piece, end_of_parts - piece.parts);
      MultiplyPiece<Ops>(piece);
      piece.parts += piece.num_parts;
      piece.accumulate = true;
    } while (piece.parts != end_of_parts);
  }
}
