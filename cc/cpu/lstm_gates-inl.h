// The pointwise part of an LSTM cell.
//
// Included once for each instruction set, inside its namespace: hence no include guard.

// Highway's functions take a bounded range and lose NaNs; these take every number.
template <class D>
HWY_INLINE hn::Vec<D> Sigmoid(D d, hn::Vec<D> x) {
  // exp of this is infinite in float32, and vanishes against 1 in either type.
  const auto limit = hn::Set(d, static_cast<hn::TFromD<D>>(100));
  const auto one = hn::Set(d, static_cast<hn::TFromD<D>>(1));
  const auto negative = hn::Neg(x);
  const auto bounded = hn::IfThenElse(hn::Gt(negative, limit), limit, negative);
  const auto y = hn::Div(one, hn::Add(one, hn::Exp(d, bounded)));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

template <class D>
HWY_INLINE hn::Vec<D> TanhOf(D d, hn::Vec<D> x) {
  // Beyond it tanh is 1 in either type.
  const auto limit = hn::Set(d, static_cast<hn::TFromD<D>>(20));
  const auto magnitude = hn::Abs(x);
  const auto bounded = hn::IfThenElse(hn::Gt(magnitude, limit), limit, magnitude);
  return hn::IfThenElse(hn::IsNaN(x), x, hn::CopySign(hn::Tanh(d, bounded), x));
}

// Made by aggregate initialisation alone: a constructor would lack the target its vectors need.
template <class V>
struct LstmCell {
  V i, f, g, o;  // after their activations
  V c;           // of this step
  V tanh_c;
};

// The cell at number j of `row`; j runs along the contiguous axis.
template <class D, typename T, typename C>
HWY_INLINE LstmCell<hn::Vec<D>> ComputeLstmCell(D d, const LstmGates<T, C>& step, int64_t row,
                                                int64_t j) {
  using Sum = Accumulator<T>;
  const bool last = step.feature_axis == 1;
  const auto gate = [&](int64_t which) HWY_ATTR {
    const int64_t at = last ? row * 4 * step.units + which * step.units + j
                            : (which * step.units + row) * step.batch + j;
    auto z = LoadAs(d, step.gates + at);
    if (step.bias != nullptr) {
      const Sum* const bias = step.bias + which * step.units;
      z = hn::Add(z, last ? hn::LoadU(d, bias + j) : hn::Set(d, bias[row]));
    }
    return z;
  };
  const auto i = Sigmoid(d, gate(0));
  const auto f = Sigmoid(d, hn::Add(gate(1), hn::Set(d, step.forget_bias)));
  const auto g = TanhOf(d, gate(2));
  const auto o = Sigmoid(d, gate(3));
  const auto before = LoadAs(d, step.c + row * step.row_size() + j);
  const auto c = hn::MulAdd(f, before, hn::Mul(i, g));
  return {i, f, g, o, c, TanhOf(d, c)};
}

template <typename T, typename C>
void LstmGatesForward(const LstmGates<T, C>& step, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    ForEachVector<Accumulator<T>>(step.row_size(), [&](auto d, int64_t j) HWY_ATTR {
      const auto cell = ComputeLstmCell(d, step, row, j);
      const int64_t at = row * step.row_size() + j;
      StoreAs(d, cell.c, step.c_next + at);
      StoreAs(d, hn::Mul(cell.o, cell.tanh_c), step.h + at);
    });
  }
}

template <typename T, typename C>
void LstmGatesBackward(const LstmGates<T, C>& step, int64_t begin, int64_t end) {
  using Sum = Accumulator<T>;
  const int64_t gate_stride = step.feature_axis == 1 ? step.units : step.units * step.batch;
  for (int64_t row = begin; row < end; ++row) {
    ForEachVector<Sum>(step.row_size(), [&](auto d, int64_t j) HWY_ATTR {
      const auto cell = ComputeLstmCell(d, step, row, j);
      const auto one = hn::Set(d, static_cast<Sum>(1));
      const int64_t at = row * step.row_size() + j;
      const auto dh = LoadAs(d, step.dh + at);
      const auto do_ = hn::Mul(dh, cell.tanh_c);
      const auto slope = hn::NegMulAdd(cell.tanh_c, cell.tanh_c, one);
      const auto dc =
          hn::MulAdd(hn::Mul(dh, cell.o), slope, LoadAs(d, step.dc_next + at));
      const auto sigmoid_slope = [&](auto s) HWY_ATTR { return hn::Mul(s, hn::Sub(one, s)); };
      T* const dgates =
          step.dgates + (step.feature_axis == 1 ? row * 4 * step.units : row * step.batch) + j;
      StoreAs(d, hn::Mul(hn::Mul(dc, cell.g), sigmoid_slope(cell.i)), dgates);
      StoreAs(d,
              hn::Mul(hn::Mul(dc, LoadAs(d, step.c + at)), sigmoid_slope(cell.f)),
              dgates + gate_stride);
      StoreAs(d, hn::Mul(hn::Mul(dc, cell.i), hn::NegMulAdd(cell.g, cell.g, one)),
              dgates + 2 * gate_stride);
      StoreAs(d, hn::Mul(do_, sigmoid_slope(cell.o)), dgates + 3 * gate_stride);
      StoreAs(d, hn::Mul(dc, cell.f), step.dc + at);
    });
  }
}

template <typename T, typename C>
LstmGatesKernels<T, C> GateKernelsFor() {
  return {LstmGatesForward<T, C>, LstmGatesBackward<T, C>};
}
