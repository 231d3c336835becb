// The gradient of an activation and of the bias before it. Sums are those of layer_norm-inl.h.
//
// Included once for each instruction set, inside its namespace: hence no include guard.

// d/dz of z Phi(z): Phi(z) + z phi(z).
template <class D>
HWY_INLINE hn::Vec<D> GeluSlopeFloat(D d, hn::Vec<D> z) {
  const auto t = hn::Abs(z);
  const auto exponential = hn::Exp(d, hn::Mul(hn::Mul(t, t), hn::Set(d, -0.5f)));
  const auto tail = NormalTail(d, t, exponential);
  const auto cdf =
      hn::IfThenElse(hn::Lt(z, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 1.0f), tail));
  return hn::MulAdd(z, hn::Mul(exponential, hn::Set(d, 0.3989422804014327f)), cdf);
}

template <class D>
HWY_INLINE hn::Vec<D> GeluSlopeDouble(D d, hn::Vec<D> z) {
  double lanes[hn::MaxLanes(d)];
  hn::StoreU(z, d, lanes);
  for (double& lane : lanes) {
    const double pdf = std::exp(-0.5 * lane * lane) * 0.39894228040143267794;
    lane = 0.5 * std::erfc(lane * -0.70710678118654752440) + lane * pdf;
  }
  return hn::LoadU(d, lanes);
}

// Computes and stores dz from number i on; returns it as stored.
template <Activation kActivation, class D, typename T>
HWY_INLINE hn::Vec<D> ThroughActivation(D d, const ActivationGrad<T>& grad, int64_t i) {
  auto dz = LoadAs(d, grad.dy + i);
  if constexpr (kActivation == Activation::kNone) return dz;
  const auto values = LoadAs(d, grad.values + i);
  if constexpr (kActivation == Activation::kRelu) {
    dz = hn::IfThenElseZero(hn::Gt(values, hn::Zero(d)), dz);
  } else if constexpr (std::is_same<hn::TFromD<D>, double>::value) {
    dz = hn::Mul(dz, GeluSlopeDouble(d, values));
  } else {
    dz = RoundTo(d, hn::Mul(dz, GeluSlopeFloat(d, values)), T());
  }
  StoreAs(d, dz, grad.dz + i);
  return dz;
}

// `width` features from `feature` on of the batch entries [first, first + size), features last.
// Rows one after the other, as they lie in memory; chains of sums as in SumDownColumns.
template <Activation kActivation, typename T>
void ActivationGradPanel(const ActivationGrad<T>& grad, int64_t first, int64_t size,
                         int64_t feature, int64_t width, double* sums) {
  using Sum = Accumulator<T>;
  constexpr int64_t kChain = 64;
  Sum chain[ActivationGrad<T>::kPanel];
  std::fill_n(sums, width, 0.0);
  for (int64_t begin = 0; begin < size; begin += kChain) {
    std::fill_n(chain, width, Sum{0});
    for (int64_t n = begin; n < std::min(begin + kChain, size); ++n) {
      const int64_t row = (first + n) * grad.features + feature;
      ForEachVector<Sum>(width, [&](auto d, int64_t j) HWY_ATTR {
        const auto dz = ThroughActivation<kActivation>(d, grad, row + j);
        hn::StoreU(hn::Add(hn::LoadU(d, chain + j), dz), d, chain + j);
      });
    }
    for (int64_t j = 0; j < width; ++j) sums[j] += static_cast<double>(chain[j]);
  }
}

// The batch entries [first, first + size) of a feature, features first.
template <Activation kActivation, typename T>
void ActivationGradRow(const ActivationGrad<T>& grad, int64_t first, int64_t size,
                       int64_t feature, double* sum) {
  double unused;
  SumAlongRow<Accumulator<T>>(size, [&](auto d, int64_t n, auto& a, auto&) HWY_ATTR {
    a = hn::Add(a, ThroughActivation<kActivation>(d, grad, feature * grad.batch + first + n));
  }, sum, &unused);
}

template <Activation kActivation, typename T>
void ActivationGradUnit(const ActivationGrad<T>& grad, int64_t unit) {
  const int64_t chunk = unit / grad.chunk_units();
  const int64_t place = unit % grad.chunk_units();
  const int64_t first = chunk * grad.chunk_entries();
  const int64_t size = std::min(grad.chunk_entries(), grad.batch - first);
  double sums[ActivationGrad<T>::kPanel];
  int64_t feature = place, width = 1;
  if (grad.feature_axis == 1) {
    feature = place * grad.kPanel;
    width = std::min(grad.kPanel, grad.features - feature);
    ActivationGradPanel<kActivation>(grad, first, size, feature, width, sums);
  } else {
    ActivationGradRow<kActivation>(grad, first, size, feature, sums);
  }
  if (grad.sums != nullptr) std::copy_n(sums, width, grad.sums + chunk * grad.features + feature);
}

template <Activation kActivation, typename T>
void ActivationGradUnitsOf(const ActivationGrad<T>& grad, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) ActivationGradUnit<kActivation>(grad, unit);
}

template <typename T>
void ActivationGradUnits(const ActivationGrad<T>& grad, int64_t begin, int64_t end) {
  switch (grad.activation) {
    case Activation::kNone:
      return ActivationGradUnitsOf<Activation::kNone>(grad, begin, end);
    case Activation::kRelu:
      return ActivationGradUnitsOf<Activation::kRelu>(grad, begin, end);
    case Activation::kGelu:
      return ActivationGradUnitsOf<Activation::kGelu>(grad, begin, end);
  }
}
