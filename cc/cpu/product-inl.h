// The one inner loop of this library: a tile of a Product, its sums held in registers.
//
// Included once per instruction set, inside that set's namespace and target pragmas, hence no
// include guard and no includes. `Ops` says what a vector is:
//   Elem, Sum                  types of the numbers in A and B, and in C
//   V, kLanes                  vector of sums, and how many it holds
//   Zero(), Load(const Elem*), Broadcast(const Elem*), MulAdd(a, b, sum), Store(V, Sum*)
//   kMaxRows[v]                the most rows that registers hold of a tile v vectors wide

// The rows of A in a tile when depth is contiguous: row i at first[i * stride]. Three pointers and
// two multiples of the stride reach twelve rows by addressing modes alone, where a pointer for
// each row would run out of registers.
template <typename Elem>
class DistantRows {
 public:
  DistantRows(const Elem* first, int64_t row_stride)
      : base_{first, first + 4 * row_stride, first + 8 * row_stride},
        stride_(row_stride),
        stride3_(3 * row_stride) {}

  HWY_INLINE const Elem* operator[](int row) const {
    return base_[row / 4] + (row % 4 == 3 ? stride3_ : row % 4 * stride_);
  }

  HWY_INLINE void Advance() {
    ++base_[0];
    ++base_[1];
    ++base_[2];
  }

 private:
  const Elem* base_[3];
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

template <class Ops, template <typename> class Rows, int kRows, int kVectors>
HWY_NOINLINE void MultiplyTile(const Product<typename Ops::Elem>& p, int64_t i0, int64_t j0) {
  using Elem = typename Ops::Elem;
  constexpr bool kDepthContiguous = std::is_same<Rows<Elem>, DistantRows<Elem>>::value;
  const int64_t a_stride = kDepthContiguous ? p.a_row_stride : p.a_depth_stride;
  const int64_t b_stride = p.b_stride;
  const int64_t a_offset = kDepthContiguous ? i0 * a_stride : i0;
  typename Ops::V sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = Ops::Zero();
  }
  for (const auto *part = p.parts, *end = part + p.num_parts; part != end; ++part) {
    Rows<Elem> a(p.a + part->a + a_offset, a_stride);
    const Elem* b = p.b + part->b + j0;
#pragma GCC unroll 4
    for (int64_t d = p.depth; d > 0; --d) {
      typename Ops::V b_vectors[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) b_vectors[v] = Ops::Load(b + v * Ops::kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) {
        const auto a_i = Ops::Broadcast(a[i]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sums[i][v] = Ops::MulAdd(a_i, b_vectors[v], sums[i][v]);
      }
      a.Advance();
      b += b_stride;
    }
  }
  auto* c = p.c + i0 * p.c_stride + j0;
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Ops::Store(sums[i][v], c + i * p.c_stride + v * Ops::kLanes);
    }
  }
}
