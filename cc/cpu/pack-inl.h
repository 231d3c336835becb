// Copies of activations and weights, in the type and order that products read them in.
//
// Included once for each instruction set, inside its namespace: hence no include guard.

template <typename T, typename Out>
void CopyRows(const T* in, int64_t in_stride, int64_t rows, int64_t columns, Out* out,
              int64_t out_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    ForEachVector<Out>(columns, [&](auto d, int64_t j) HWY_ATTR {
      hn::StoreU(LoadAs(d, in + i * in_stride + j), d, out + i * out_stride + j);
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

// out[j * out_stride + i] = in[i * in_stride + j]. kLanes is the most rows to take at a time: 16
// give whole cache lines of output, but 8 are better where the input's stride may be a large power
// of two, as more lines than that would drive each other out of an 8-way cache.
template <int kLanes, typename Lane>
void TransposeLanes(const Lane* in, int64_t in_stride, int64_t rows, int64_t columns, Lane* out,
                    int64_t out_stride) {
  int64_t full_rows = 0, full_columns = 0;
#if HWY_TARGET != HWY_SCALAR
  constexpr int64_t kBlock = 16 / sizeof(Lane);  // lanes of 128 bits
  full_columns = columns / kBlock * kBlock;
  const auto strips = [&](auto d) HWY_ATTR {
    full_rows = TransposeStrips(d, in, in_stride, full_rows, rows, full_columns, out, out_stride);
  };
  if constexpr (kLanes > 8) strips(hn::CappedTag<Lane, 4 * kBlock>());
  strips(hn::CappedTag<Lane, 2 * kBlock>());
  strips(hn::CappedTag<Lane, kBlock>());
#endif
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = i < full_rows ? full_columns : 0; j < columns; ++j) {
      out[j * out_stride + i] = in[i * in_stride + j];
    }
  }
}

template <int kLanes, typename T, typename Out>
void TransposeRows(const T* in, int64_t in_stride, int64_t rows, int64_t columns, Out* out,
                   int64_t out_stride) {
  if constexpr (std::is_same<T, Out>::value) {
    TransposeLanes<kLanes>(in, in_stride, rows, columns, out, out_stride);
  } else {  // widened a piece at a time
    constexpr int64_t kRows = 16, kColumns = 64;
    alignas(64) Out wide[kRows * kColumns];
    for (int64_t i = 0; i < rows; i += kRows) {
      const int64_t piece_rows = HWY_MIN(kRows, rows - i);
      for (int64_t j = 0; j < columns; j += kColumns) {
        const int64_t piece_columns = HWY_MIN(kColumns, columns - j);
        CopyRows(in + i * in_stride + j, in_stride, piece_rows, piece_columns, wide, kColumns);
        TransposeLanes<16>(wide, kColumns, piece_rows, piece_columns, out + j * out_stride + i,
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
template <int kLanes>
void PairColumns(const BFloat16* in, int64_t in_stride, int64_t rows, int64_t columns,
                        BFloat16Pair* out, int64_t out_stride) {
  // Pairs as they lie in memory are moved like floats; a float's bits do not change on the way.
  if (in_stride % 2 == 0) {
    TransposeLanes<kLanes>(reinterpret_cast<const float*>(in), in_stride / 2, rows, columns / 2,
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
void PackActivations(const Pack<T, Elem>& pack) {
  if constexpr (std::is_same<Elem, BFloat16Pair>::value) {
    if (pack.pairs_adjacent) {
      CopyRows(reinterpret_cast<const float*>(pack.in), pack.in_stride / 2, pack.rows,
               pack.columns / 2, reinterpret_cast<float*>(pack.out), pack.out_stride);
    } else if (pack.transposed) {
      PairColumns<8>(pack.in, pack.in_stride, pack.columns, pack.rows, pack.out, pack.out_stride);
    } else {
      PairRows(pack.in, pack.in_stride, pack.rows, pack.columns, pack.out, pack.out_stride);
    }
  } else if (pack.transposed) {
    TransposeRows<8>(pack.in, pack.in_stride, pack.columns, pack.rows, pack.out, pack.out_stride);
  } else {
    CopyRows(pack.in, pack.in_stride, pack.rows, pack.columns, pack.out, pack.out_stride);
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
      PairColumns<16>(w, bs, bs, bs, out, bs);
    } else {
      PairRows(w, bs, bs, bs, out, bs);
    }
  } else if (transposed) {
    TransposeRows<16>(w, bs, bs, bs, out, bs);
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

#if HWY_TARGET == HWY_AVX3
// (2 depth, 8) to (depth, 8) of two each, in place.
template <typename Elem>
void PairEights(Elem* rows, int64_t depth) {
  const hn::ScalableTag<uint32_t> d;
  alignas(64) static constexpr int32_t kOrder[16] = {0, 8,  1, 9,  2, 10, 3, 11,
                                                     4, 12, 5, 13, 6, 14, 7, 15};
  const auto order = hn::SetTableIndices(d, kOrder);
  auto* lanes = reinterpret_cast<uint32_t*>(rows);
  for (int64_t i = 0; i < depth; ++i, lanes += 16) {
    hn::StoreU(hn::TableLookupLanes(hn::LoadU(d, lanes), order), d, lanes);
  }
}
#endif
