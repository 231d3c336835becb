// Layer norm: statistics, normalisation, gradients.
//
// Included once for each instruction set, inside its namespace: hence no include guard.
//
// Sums are cut into chains of fixed length, whose results are added in double: a mean over 10^5
// float32 numbers is then as good as one over a hundred, and does not depend on the threads.

// Adds f's two terms over [0, size) along contiguous numbers: f(d, i, a, b) adds to the vectors
// a and b the terms from i on.
template <typename Sum, class F>
HWY_INLINE void SumAlongRow(int64_t size, const F& f, double* first, double* second) {
  constexpr int64_t kChain = 1024;
  const hn::ScalableTag<Sum> d;
  const hn::CappedTag<Sum, 1> d1;
  const int64_t lanes = hn::Lanes(d);
  *first = *second = 0;
  for (int64_t begin = 0; begin < size; begin += kChain) {
    const int64_t end = std::min(begin + kChain, size);
    auto a = hn::Zero(d), b = hn::Zero(d);
    int64_t i = begin;
    for (; i + lanes <= end; i += lanes) f(d, i, a, b);
    auto a1 = hn::Zero(d1), b1 = hn::Zero(d1);
    for (; i < end; ++i) f(d1, i, a1, b1);
    *first += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, a)) + hn::GetLane(a1));
    *second += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, b)) + hn::GetLane(b1));
  }
}

// The same down each of `width` <= kPanel columns: f(d, row, j, a, b).
template <typename Sum, class F>
HWY_INLINE void SumDownColumns(int64_t rows, int64_t width, const F& f, double* first,
                               double* second) {
  constexpr int64_t kChain = 64;
  Sum chain_a[kPanel], chain_b[kPanel];
  std::fill_n(first, width, 0.0);
  std::fill_n(second, width, 0.0);
  for (int64_t begin = 0; begin < rows; begin += kChain) {
    const int64_t end = std::min(begin + kChain, rows);
    ForEachVector<Sum>(width, [&](auto d, int64_t j) HWY_ATTR {
      auto a = hn::Zero(d), b = hn::Zero(d);
      for (int64_t row = begin; row < end; ++row) f(d, row, j, a, b);
      hn::StoreU(a, d, chain_a + j);
      hn::StoreU(b, d, chain_b + j);
    });
    for (int64_t j = 0; j < width; ++j) {
      first[j] += static_cast<double>(chain_a[j]);
      second[j] += static_cast<double>(chain_b[j]);
    }
  }
}

// From the sum of x - shift and of its square to mean and 1 / deviation. Summing differences from
// a shift that is the mean but for rounding makes up for that rounding.
template <typename Sum>
HWY_INLINE void Moments(double shift, double sum, double squares, int64_t size, double epsilon,
                        Sum* mean, Sum* rstd) {
  const double rest = sum / static_cast<double>(size);
  const double variance = squares / static_cast<double>(size) - rest * rest;
  *mean = static_cast<Sum>(shift + rest);
  // Written so that a NaN stays one.
  *rstd = static_cast<Sum>(1.0 / std::sqrt((variance < 0 ? 0 : variance) + epsilon));
}

// The output before relu. Forward and backward must agree on its sign to the last bit.
template <class V>
HWY_INLINE V Affine(V normal, V gain, V bias) {
  return hn::MulAdd(normal, gain, bias);
}

// dy, or 0 where relu held the output at 0.
template <class D, class V>
HWY_INLINE V BeforeRelu(D d, bool relu, V dy, V normal, V gain, V bias) {
  if (!relu) return dy;
  return hn::IfThenElseZero(hn::Gt(Affine(normal, gain, bias), hn::Zero(d)), dy);
}

// A unit of LayerNorm::units(): a segment of one row, or of a panel of columns.
template <typename T>
struct NormUnit {
  int64_t element;    // its first
  int64_t feature;    // its first
  int64_t statistic;  // its first
  int64_t width;      // columns of the panel

  NormUnit(const LayerNorm<T>& norm, int64_t unit) {
    if (norm.feature_axis == 1) {
      feature = unit % norm.segments * norm.segment_size();
      element = unit / norm.segments * norm.features + feature;
      statistic = unit;
      width = 1;
      return;
    }
    const int64_t panels = norm.Panels(norm.batch);
    const int64_t segment = unit / panels;
    const int64_t column = unit % panels * kPanel;
    feature = segment * norm.segment_size();
    element = feature * norm.batch + column;
    statistic = segment * norm.batch + column;
    width = std::min(kPanel, norm.batch - column);
  }
};

template <typename T>
void NormalizeRow(const LayerNorm<T>& norm, const NormUnit<T>& unit) {
  using Sum = Accumulator<T>;
  const int64_t size = norm.segment_size();
  const T* const x = norm.x + unit.element;
  double sum, squares;
  SumAlongRow<Sum>(size, [&](auto d, int64_t i, auto& a, auto&) HWY_ATTR {
    a = hn::Add(a, LoadAs(d, x + i));
  }, &sum, &squares);
  const Sum shift = static_cast<Sum>(sum / static_cast<double>(size));
  SumAlongRow<Sum>(size, [&](auto d, int64_t i, auto& a, auto& b) HWY_ATTR {
    const auto difference = hn::Sub(LoadAs(d, x + i), hn::Set(d, shift));
    a = hn::Add(a, difference);
    b = hn::MulAdd(difference, difference, b);
  }, &sum, &squares);
  Sum mean, rstd;
  Moments(shift, sum, squares, size, norm.epsilon, &mean, &rstd);
  norm.mean[unit.statistic] = mean;
  norm.rstd[unit.statistic] = rstd;
  const Sum* const gain = norm.gain + unit.feature;
  const Sum* const bias = norm.bias + unit.feature;
  ForEachVector<Sum>(size, [&](auto d, int64_t i) HWY_ATTR {
    const auto normal =
        hn::Mul(hn::Sub(LoadAs(d, x + i), hn::Set(d, mean)), hn::Set(d, rstd));
    const auto z = Affine(normal, hn::LoadU(d, gain + i), hn::LoadU(d, bias + i));
    StoreAs(d, norm.relu ? Relu(d, z) : z, norm.out + unit.element + i);
  });
}

template <typename T>
void NormalizePanel(const LayerNorm<T>& norm, const NormUnit<T>& unit) {
  using Sum = Accumulator<T>;
  const int64_t size = norm.segment_size();
  const T* const x = norm.x + unit.element;
  double sum[kPanel], squares[kPanel];
  Sum shift[kPanel];
  SumDownColumns<Sum>(size, unit.width, [&](auto d, int64_t f, int64_t j, auto& a, auto&) HWY_ATTR {
    a = hn::Add(a, LoadAs(d, x + f * norm.batch + j));
  }, sum, squares);
  for (int64_t j = 0; j < unit.width; ++j) {
    shift[j] = static_cast<Sum>(sum[j] / static_cast<double>(size));
  }
  SumDownColumns<Sum>(
      size, unit.width, [&](auto d, int64_t f, int64_t j, auto& a, auto& b) HWY_ATTR {
        const auto difference =
            hn::Sub(LoadAs(d, x + f * norm.batch + j), hn::LoadU(d, shift + j));
        a = hn::Add(a, difference);
        b = hn::MulAdd(difference, difference, b);
      }, sum, squares);
  Sum* const mean = norm.mean + unit.statistic;
  Sum* const rstd = norm.rstd + unit.statistic;
  for (int64_t j = 0; j < unit.width; ++j) {
    Moments(shift[j], sum[j], squares[j], size, norm.epsilon, mean + j, rstd + j);
  }
  for (int64_t f = 0; f < size; ++f) {
    const Sum gain = norm.gain[unit.feature + f];
    const Sum bias = norm.bias[unit.feature + f];
    const int64_t row = f * norm.batch;
    ForEachVector<Sum>(unit.width, [&](auto d, int64_t j) HWY_ATTR {
      const auto normal = hn::Mul(hn::Sub(LoadAs(d, x + row + j), hn::LoadU(d, mean + j)),
                                  hn::LoadU(d, rstd + j));
      const auto z = Affine(normal, hn::Set(d, gain), hn::Set(d, bias));
      StoreAs(d, norm.relu ? Relu(d, z) : z, norm.out + unit.element + row + j);
    });
  }
}

template <typename T>
void NormalizeUnits(const LayerNorm<T>& norm, int64_t begin, int64_t end) {
  for (int64_t u = begin; u < end; ++u) {
    const NormUnit<T> unit(norm, u);
    norm.feature_axis == 1 ? NormalizeRow(norm, unit) : NormalizePanel(norm, unit);
  }
}

// With g = dz * gain: dx = rstd * (g - mean(g) - normal * mean(g * normal)).
template <class D, class V>
HWY_INLINE V LayerNormDx(D, V g, V normal, V rstd, V mean_g, V mean_g_normal) {
  return hn::Mul(rstd, hn::NegMulAdd(normal, mean_g_normal, hn::Sub(g, mean_g)));
}

template <typename T>
void LayerNormDxRow(const LayerNorm<T>& norm, const NormUnit<T>& unit) {
  using Sum = Accumulator<T>;
  const int64_t size = norm.segment_size();
  const Sum mean = norm.mean[unit.statistic], rstd = norm.rstd[unit.statistic];
  // Normalised x and dz * gain at i.
  const auto terms = [&](auto d, int64_t i, auto& normal, auto& g) HWY_ATTR {
    normal = hn::Mul(hn::Sub(LoadAs(d, norm.x + unit.element + i), hn::Set(d, mean)),
                     hn::Set(d, rstd));
    const auto gain = hn::LoadU(d, norm.gain + unit.feature + i);
    const auto bias = hn::LoadU(d, norm.bias + unit.feature + i);
    const auto dy = LoadAs(d, norm.dy + unit.element + i);
    g = hn::Mul(BeforeRelu(d, norm.relu, dy, normal, gain, bias), gain);
  };
  double sum_g, sum_g_normal;
  SumAlongRow<Sum>(size, [&](auto d, int64_t i, auto& a, auto& b) HWY_ATTR {
    auto normal = hn::Zero(d), g = normal;
    terms(d, i, normal, g);
    a = hn::Add(a, g);
    b = hn::MulAdd(g, normal, b);
  }, &sum_g, &sum_g_normal);
  const Sum mean_g = static_cast<Sum>(sum_g / static_cast<double>(size));
  const Sum mean_g_normal = static_cast<Sum>(sum_g_normal / static_cast<double>(size));
  ForEachVector<Sum>(size, [&](auto d, int64_t i) HWY_ATTR {
    auto normal = hn::Zero(d), g = normal;
    terms(d, i, normal, g);
    StoreAs(d,
            LayerNormDx(d, g, normal, hn::Set(d, rstd), hn::Set(d, mean_g),
                        hn::Set(d, mean_g_normal)),
            norm.out + unit.element + i);
  });
}

template <typename T>
void LayerNormDxPanel(const LayerNorm<T>& norm, const NormUnit<T>& unit) {
  using Sum = Accumulator<T>;
  const int64_t size = norm.segment_size();
  const Sum* const mean = norm.mean + unit.statistic;
  const Sum* const rstd = norm.rstd + unit.statistic;
  const auto terms = [&](auto d, int64_t f, int64_t j, auto& normal, auto& g) HWY_ATTR {
    const int64_t element = unit.element + f * norm.batch + j;
    normal = hn::Mul(hn::Sub(LoadAs(d, norm.x + element), hn::LoadU(d, mean + j)),
                     hn::LoadU(d, rstd + j));
    const auto gain = hn::Set(d, norm.gain[unit.feature + f]);
    const auto bias = hn::Set(d, norm.bias[unit.feature + f]);
    const auto dy = LoadAs(d, norm.dy + element);
    g = hn::Mul(BeforeRelu(d, norm.relu, dy, normal, gain, bias), gain);
  };
  double sum_g[kPanel], sum_g_normal[kPanel];
  SumDownColumns<Sum>(
      size, unit.width, [&](auto d, int64_t f, int64_t j, auto& a, auto& b) HWY_ATTR {
        auto normal = hn::Zero(d), g = normal;
        terms(d, f, j, normal, g);
        a = hn::Add(a, g);
        b = hn::MulAdd(g, normal, b);
      }, sum_g, sum_g_normal);
  Sum mean_g[kPanel], mean_g_normal[kPanel];
  for (int64_t j = 0; j < unit.width; ++j) {
    mean_g[j] = static_cast<Sum>(sum_g[j] / static_cast<double>(size));
    mean_g_normal[j] = static_cast<Sum>(sum_g_normal[j] / static_cast<double>(size));
  }
  for (int64_t f = 0; f < size; ++f) {
    ForEachVector<Sum>(unit.width, [&](auto d, int64_t j) HWY_ATTR {
      auto normal = hn::Zero(d), g = normal;
      terms(d, f, j, normal, g);
      StoreAs(d,
              LayerNormDx(d, g, normal, hn::LoadU(d, rstd + j), hn::LoadU(d, mean_g + j),
                          hn::LoadU(d, mean_g_normal + j)),
              norm.out + unit.element + f * norm.batch + j);
    });
  }
}

template <typename T>
void LayerNormDxUnits(const LayerNorm<T>& norm, int64_t begin, int64_t end) {
  for (int64_t u = begin; u < end; ++u) {
    const NormUnit<T> unit(norm, u);
    norm.feature_axis == 1 ? LayerNormDxRow(norm, unit) : LayerNormDxPanel(norm, unit);
  }
}

// dgain and dbias of a panel of features, features last: sums down the columns.
template <typename T>
void LayerNormParamPanel(const LayerNorm<T>& norm, int64_t segment, int64_t first) {
  using Sum = Accumulator<T>;
  const int64_t feature = segment * norm.segment_size() + first;
  const int64_t width = std::min(kPanel, norm.segment_size() - first);
  double dgain[kPanel], dbias[kPanel];
  SumDownColumns<Sum>(
      norm.batch, width, [&](auto d, int64_t n, int64_t j, auto& a, auto& b) HWY_ATTR {
        const int64_t element = n * norm.features + feature + j;
        const int64_t statistic = n * norm.segments + segment;
        const auto normal =
            hn::Mul(hn::Sub(LoadAs(d, norm.x + element), hn::Set(d, norm.mean[statistic])),
                    hn::Set(d, norm.rstd[statistic]));
        const auto dz = BeforeRelu(d, norm.relu, LoadAs(d, norm.dy + element), normal,
                                   hn::LoadU(d, norm.gain + feature + j),
                                   hn::LoadU(d, norm.bias + feature + j));
        a = hn::MulAdd(dz, normal, a);
        b = hn::Add(b, dz);
      }, dgain, dbias);
  for (int64_t j = 0; j < width; ++j) {
    norm.dgain[feature + j] = static_cast<Sum>(dgain[j]);
    norm.dbias[feature + j] = static_cast<Sum>(dbias[j]);
  }
}

// dgain and dbias of a feature, features first: sums along its row.
template <typename T>
void LayerNormParamRow(const LayerNorm<T>& norm, int64_t feature) {
  using Sum = Accumulator<T>;
  const int64_t statistic = feature / norm.segment_size() * norm.batch;
  double dgain, dbias;
  SumAlongRow<Sum>(norm.batch, [&](auto d, int64_t n, auto& a, auto& b) HWY_ATTR {
    const int64_t element = feature * norm.batch + n;
    const auto normal = hn::Mul(
        hn::Sub(LoadAs(d, norm.x + element), hn::LoadU(d, norm.mean + statistic + n)),
        hn::LoadU(d, norm.rstd + statistic + n));
    const auto dz = BeforeRelu(d, norm.relu, LoadAs(d, norm.dy + element), normal,
                               hn::Set(d, norm.gain[feature]), hn::Set(d, norm.bias[feature]));
    a = hn::MulAdd(dz, normal, a);
    b = hn::Add(b, dz);
  }, &dgain, &dbias);
  norm.dgain[feature] = static_cast<Sum>(dgain);
  norm.dbias[feature] = static_cast<Sum>(dbias);
}

template <typename T>
void LayerNormParamUnits(const LayerNorm<T>& norm, int64_t begin, int64_t end) {
  const int64_t panels = norm.Panels(norm.segment_size());
  for (int64_t u = begin; u < end; ++u) {
    if (norm.feature_axis == 1) {
      LayerNormParamPanel(norm, u / panels, u % panels * kPanel);
    } else {
      LayerNormParamRow(norm, u);
    }
  }
}
