// Copies of activations and weights, in the type and order that products read them in.
//
// Included once for each instruction set, inside its namespace: hence no include guard.

// kVectors at a time, and all loaded before they are stored: GCC takes the plain loop for a memcpy,
// and calls one for every row.
template <int kVectors, class D, typename T>
HWY_INLINE void CopyVectors(D d, const T* in, hn::TFromD<D>* out) {
  constexpr int64_t kLanes = hn::MaxLanes(D());
  hn::Vec<D> v[kVectors];
  for (int i = 0; i < kVectors; ++i) v[i] = LoadAs(d, in + i * kLanes);
  for (int i = 0; i < kVectors; ++i) hn::StoreU(v[i], d, out + i * kLanes);
}

template <int kVectors, class D, typename T>
HWY_INLINE void CopyRowsOf(D d, const T* in, int64_t in_stride, int64_t rows, hn::TFromD<D>* out,
                           int64_t out_stride) {
  for (int64_t i = 0; i < rows; ++i, in += in_stride, out += out_stride) {
    CopyVectors<kVectors>(d, in, out);
  }
}

template <typename T, typename Out>
void CopyRows(const T* in, int64_t in_stride, int64_t rows, int64_t columns, Out* out,
              int64_t out_stride) {
  const hn::ScalableTag<Out> d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  if (columns == kLanes) return CopyRowsOf<1>(d, in, in_stride, rows, out, out_stride);
  if (columns == 2 * kLanes) return CopyRowsOf<2>(d, in, in_stride, rows, out, out_stride);
  if (columns == 4 * kLanes) return CopyRowsOf<4>(d, in, in_stride, rows, out, out_stride);
#if HWY_TARGET != HWY_SCALAR
  if (columns == 8 && kLanes > 8) {
    return CopyRowsOf<1>(hn::CappedTag<Out, 8>(), in, in_stride, rows, out, out_stride);
  }
#endif
  for (int64_t i = 0; i < rows; ++i, in += in_stride, out += out_stride) {
    ForEachVector<Out>(columns, [&](auto d, int64_t j) HWY_ATTR {
      CopyVectors<1>(d, in + j, out + j);
    });
  }
}

#if HWY_TARGET != HWY_SCALAR
// Row i of the result is rows i, i + step, i + 2 step… of the input, a 128-bit block of each.
template <class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const hn::TFromD<D>* p, int64_t distance) {
  if constexpr (hn::MaxLanes(d) * sizeof(hn::TFromD<D>) <= 16) {
    return hn::LoadU(d, p);
  } else {
    const hn::Half<D> half;
    const int64_t upper = distance * static_cast<int64_t>(hn::MaxLanes(half) * sizeof(*p) / 16);
    return hn::Combine(d, LoadBlocks(half, p + upper, distance), LoadBlocks(half, p, distance));
  }
}

// Transposes (lanes of D, 4) to (4, lanes of D).
template <class D>
HWY_INLINE void TransposeTile(D d, const float* in, int64_t in_stride, float* out,
                              int64_t out_stride) {
  const hn::Repartition<double, D> d64;
  const auto row0 = LoadBlocks(d, in, 4 * in_stride);
  const auto row1 = LoadBlocks(d, in + in_stride, 4 * in_stride);
  const auto row2 = LoadBlocks(d, in + 2 * in_stride, 4 * in_stride);
  const auto row3 = LoadBlocks(d, in + 3 * in_stride, 4 * in_stride);
  const auto lower01 = hn::BitCast(d64, hn::InterleaveLower(d, row0, row1));
  const auto lower23 = hn::BitCast(d64, hn::InterleaveLower(d, row2, row3));
  const auto upper01 = hn::BitCast(d64, hn::InterleaveUpper(d, row0, row1));
  const auto upper23 = hn::BitCast(d64, hn::InterleaveUpper(d, row2, row3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, lower01, lower23)), d, out);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, lower01, lower23)), d, out + out_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, upper01, upper23)), d, out + 2 * out_stride);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, upper01, upper23)), d, out + 3 * out_stride);
}

// Transposes (lanes of D, 2) to (2, lanes of D).
template <class D>
HWY_INLINE void TransposeTile(D d, const double* in, int64_t in_stride, double* out,
                              int64_t out_stride) {
  const auto row0 = LoadBlocks(d, in, 2 * in_stride);
  const auto row1 = LoadBlocks(d, in + in_stride, 2 * in_stride);
  hn::StoreU(hn::InterleaveLower(d, row0, row1), d, out);
  hn::StoreU(hn::InterleaveUpper(d, row0, row1), d, out + out_stride);
}
#endif  // HWY_TARGET != HWY_SCALAR

#if HWY_TARGET != HWY_SCALAR
// Transposes from row i on as long as there are as many rows as D has lanes, and returns where it
// stopped. The number of columns must be a multiple of a 128-bit block.
template <class D>
int64_t TransposeStrips(D d, const hn::TFromD<D>* in, int64_t in_stride, int64_t i, int64_t rows,
                        int64_t columns, hn::TFromD<D>* out, int64_t out_stride) {
  constexpr int64_t kTileRows = hn::MaxLanes(D());
  constexpr int64_t kTileColumns = 16 / sizeof(hn::TFromD<D>);
  for (; i + kTileRows <= rows; i += kTileRows) {
    for (int64_t j = 0; j < columns; j += kTileColumns) {
      TransposeTile(d, in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
    }
  }
  return i;
}
#endif

// out[j * out_stride + i] = in[i * in_stride + j]. Up to 16 rows at a time give whole cache lines
// of output, but 8 are better where rows are so far apart that they drive each other out of an
// 8-way cache.
template <typename Lane>
void TransposeLanes(const Lane* in, int64_t in_stride, int64_t rows, int64_t columns, Lane* out,
                    int64_t out_stride) {
  int64_t full_rows = 0, full_columns = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr int64_t kBlock = 16 / sizeof(Lane);  // lanes of 128 bits
  full_columns = columns / kBlock * kBlock;
  const auto strips = [&](auto d) HWY_ATTR {
    full_rows = TransposeStrips(d, in, in_stride, full_rows, rows, full_columns, out, out_stride);
  };
  const bool collides = in_stride * sizeof(Lane) % 1024 == 0;
  if (4 * kBlock <= 8 || !collides) strips(hn::CappedTag<Lane, 4 * kBlock>());
  strips(hn::CappedTag<Lane, 2 * kBlock>());
  strips(hn::CappedTag<Lane, kBlock>());
#endif
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < full_rows ? full_columns : 0; j < columns; ++j) {
      out[j * out_stride + i] = in[i * in_stride + j];
    }
  }
}

// The same from any type that Out holds.
template <typename T, typename Out>
void TransposeRows(const T* in, int64_t in_stride, int64_t rows, int64_t columns, Out* out,
                   int64_t out_stride) {
  if constexpr (std::is_same<T, Out>::value) {
    TransposeLanes(in, in_stride, rows, columns, out, out_stride);
  } else {  // widened a piece at a time
    constexpr int64_t kRows = 16, kColumns = 64;
    alignas(64) Out wide[kRows * kColumns];
    for (int64_t i = 0; i < rows; i += kRows) {
      const int64_t piece_rows = HWY_MIN(kRows, rows - i);
      for (int64_t j = 0; j < columns; j += kColumns) {
        const int64_t piece_columns = HWY_MIN(kColumns, columns - j);
        CopyRows(in + i * in_stride + j, in_stride, piece_rows, piece_columns, wide, kColumns);
        TransposeLanes(wide, kColumns, piece_rows, piece_columns, out + j * out_stride + i,
                       out_stride);
      }
    }
  }
}

// out[p * out_stride + j] pairs in[2 p * in_stride + j] with the number below it, or with 0.
inline void PairRows(const BFloat16* in, int64_t in_stride, int64_t rows, int64_t columns,
                     BFloat16Pair* out, int64_t out_stride) {
  for (int64_t i = 0; i < rows; i += 2) {
    const auto* first = reinterpret_cast<const uint16_t*>(in + i * in_stride);
    const auto* second = i + 1 < rows ? first + in_stride : nullptr;
    auto* pairs = reinterpret_cast<uint32_t*>(out + i / 2 * out_stride);
    ForEachVector<uint32_t>(columns, [&](auto d, int64_t j) HWY_ATTR {
      const hn::Rebind<uint16_t, decltype(d)> d16;
      auto pair = hn::PromoteTo(d, hn::LoadU(d16, first + j));
      if (second != nullptr) {
        const auto upper = hn::PromoteTo(d, hn::LoadU(d16, second + j));
        pair = hn::Or(pair, hn::ShiftLeft<16>(upper));
      }
      hn::StoreU(pair, d, pairs + j);
    });
  }
}

// out[p * out_stride + i] pairs in[i * in_stride + 2 p] with the number to the right of it, or 0.
inline void PairColumns(const BFloat16* in, int64_t in_stride, int64_t rows, int64_t columns,
                        BFloat16Pair* out, int64_t out_stride) {
  // Pairs as they lie in memory are moved like floats; a float's bits do not change on the way.
  if (in_stride % 2 == 0) {
    TransposeRows(reinterpret_cast<const float*>(in), in_stride / 2, rows, columns / 2,
                  reinterpret_cast<float*>(out), out_stride);
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t p = 0; p < columns / 2; ++p) {
        std::memcpy(&out[p * out_stride + i], &in[i * in_stride + 2 * p], sizeof(*out));
      }
    }
  }
  if (columns % 2 == 1) {
    for (int64_t i = 0; i < rows; ++i) {
      out[columns / 2 * out_stride + i].bits = in[i * in_stride + columns - 1].bits;
    }
  }
}

template <typename T, typename Elem>
HWY_INLINE void PackRows(const Pack<T, Elem>& pack, const T* in, int64_t rows, Elem* out) {
  if constexpr (std::is_same<Elem, BFloat16Pair>::value) {
    if (pack.pairs_adjacent) {
      CopyRows(reinterpret_cast<const float*>(in), pack.in_stride / 2, rows, pack.columns / 2,
               reinterpret_cast<float*>(out), pack.out_stride);
    } else if (pack.transposed) {
      PairColumns(in, pack.in_stride, pack.columns, rows, out, pack.out_stride);
    } else {
      PairRows(in, pack.in_stride, rows, pack.columns, out, pack.out_stride);
    }
  } else if (pack.transposed) {
    TransposeRows(in, pack.in_stride, pack.columns, rows, out, pack.out_stride);
  } else {
    CopyRows(in, pack.in_stride, rows, pack.columns, out, pack.out_stride);
  }
}

#if HWY_TARGET == HWY_AVX3
// Row i of 8 numbers.
template <class D, typename T>
HWY_INLINE hn::Vec<D> LoadEight(D d, const Pack<T, float>& pack, const T* in, int64_t i,
                                int64_t rows) {
  return i < rows ? LoadAs(d, in + i * pack.in_stride) : hn::Zero(d);
}

// Rows i and i + 1 as 8 pairs.
template <class D>
HWY_INLINE hn::Vec<D> LoadEight(D d, const Pack<BFloat16, BFloat16Pair>& pack, const BFloat16* in,
                                int64_t i, int64_t rows) {
  const hn::Rebind<uint32_t, D> d32;
  const hn::Rebind<uint16_t, D> d16;
  if (i >= rows) return hn::Zero(d);
  const auto* bits = reinterpret_cast<const uint16_t*>(in + i * pack.in_stride);
  auto pairs = hn::PromoteTo(d32, hn::LoadU(d16, bits));
  if (i + 1 < rows) {
    const auto upper = hn::PromoteTo(d32, hn::LoadU(d16, bits + pack.in_stride));
    pairs = hn::Or(pairs, hn::ShiftLeft<16>(upper));
  }
  return hn::BitCast(d, pairs);
}

template <typename T, typename Elem>
void PackEights(const Pack<T, Elem>& pack, const T* in, int64_t rows, Elem* out) {
  constexpr int64_t kStep = std::is_same<Elem, BFloat16Pair>::value ? 2 : 1;
  constexpr int64_t kInTwo = 2 * kStep;
  if constexpr (kStep * sizeof(T) == sizeof(float)) {
    if (pack.transposed && pack.in_stride % kInTwo == 0 && rows % kInTwo == 0) {
      // Twos as they lie in memory are moved like doubles.
      return TransposeRows(reinterpret_cast<const double*>(in), pack.in_stride / kInTwo, 8,
                           rows / kInTwo, reinterpret_cast<double*>(out), 8);
    }
  }
  const hn::ScalableTag<float> d;
  const hn::Half<decltype(d)> half;
  alignas(64) static constexpr int32_t kOrder[16] = {0, 8,  1, 9,  2, 10, 3, 11,
                                                     4, 12, 5, 13, 6, 14, 7, 15};
  const auto order = hn::SetTableIndices(d, kOrder);
  auto* lanes = reinterpret_cast<float*>(out);
  if (!pack.transposed) {
    for (int64_t i = 0; i < rows; i += kInTwo, lanes += 16) {
      const auto lower = LoadEight(half, pack, in, i, rows);
      const auto upper = LoadEight(half, pack, in, i + kStep, rows);
      hn::StoreU(hn::TableLookupLanes(hn::Combine(d, upper, lower), order), d, lanes);
    }
    return;
  }
  PackRows(pack, in, rows, out);
  const int64_t steps = (rows + kStep - 1) / kStep;
  if (steps % 2 == 1) std::memset(out + 8 * steps, 0, 8 * sizeof(Elem));
  for (int64_t i = 0; i < steps; i += 2, lanes += 16) {
    hn::StoreU(hn::TableLookupLanes(hn::LoadU(d, lanes), order), d, lanes);
  }
}
#endif

// One block, or some rows of it.
template <typename T, typename Elem>
HWY_INLINE void PackBlock(const Pack<T, Elem>& pack, const T* in, int64_t rows, Elem* out) {
#if HWY_TARGET == HWY_AVX3
  if constexpr (sizeof(Elem) == sizeof(float)) {
    if (pack.in_eights) return PackEights(pack, in, rows, out);
  }
#endif
  PackRows(pack, in, rows, out);
}

template <typename T, typename Elem>
void PackActivations(const Pack<T, Elem>& pack) {
  if (pack.transposed || pack.blocks == 1) {
    const int64_t distance = pack.columns * (pack.transposed ? pack.in_stride : 1);
    for (int64_t block = 0; block < pack.blocks; ++block) {
      PackBlock(pack, pack.in + block * distance, pack.rows,
                pack.out + block * pack.out_block_stride);
    }
    return;
  }
  // A row of a block is but a part of a cache line, or a few: blocks are filled together, a few
  // rows at a time, whose lines an 8-way cache holds at any distance.
  constexpr int64_t kRows = 8;
  const int64_t pairing = std::is_same<Elem, BFloat16Pair>::value && !pack.pairs_adjacent ? 2 : 1;
  for (int64_t i = 0; i < pack.rows; i += kRows) {
    const int64_t rows = HWY_MIN(kRows, pack.rows - i);
    for (int64_t block = 0; block < pack.blocks; ++block) {
      PackBlock(pack, pack.in + i * pack.in_stride + block * pack.columns, rows,
                pack.out + block * pack.out_block_stride + i / pairing * pack.out_stride);
    }
  }
}

// out[i] = w[i] rounded to T, times the gate, rounded to T.
template <typename T, typename W>
void EffectiveWeights(const W* w, int64_t size, float gate, T* out) {
  ForEachVector<Accumulator<T>>(size, [&](auto d, int64_t i) HWY_ATTR {
    const auto rounded = RoundTo(d, LoadAs(d, w + i), T());
    const auto scale = hn::Set(d, static_cast<Accumulator<T>>(gate));
    StoreAs(d, hn::Mul(rounded, scale), out + i);
  });
}

template <typename T, typename Elem>
void PrepareBlock(const T* w, int bs, bool transposed, Elem* out) {
  if constexpr (std::is_same<Elem, BFloat16Pair>::value) {
    if (transposed) {
      PairColumns(w, bs, bs, bs, out, bs);
    } else {
      PairRows(w, bs, bs, bs, out, bs);
    }
  } else if (transposed) {
    TransposeRows(w, bs, bs, bs, out, bs);
  } else {
    CopyRows(w, bs, bs, bs, out, bs);
  }
}

template <typename T, typename Elem>
void PrepareWeights(const WeightBlock& block, Elem* out) {
  const int bs = block.block_size;
  const T* w = static_cast<const T*>(block.w);
  alignas(64) T effective[128 * 128];
  if constexpr (sizeof(T) == 2) {
    if (block.float32_weights) {
      EffectiveWeights(static_cast<const float*>(block.w), bs * bs, block.gate, effective);
      w = effective;
    }
  }
  if (w != effective && block.gate != 1.0f) {
    EffectiveWeights(w, bs * bs, block.gate, effective);
    w = effective;
  }
  PrepareBlock(w, bs, block.transposed, out);
}
