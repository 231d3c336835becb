// What happens to sums on their way to memory: bias, activation, residual, rounding.
//
// Included once for each instruction set, inside its namespace: hence no include guard.

// The tail of the normal distribution, of `exponential` = exp(-t^2 / 2):
//   Phi(-t) = exp(-t^2 / 2) s P(s),  s = 1 / (1 + 0.3 t),  t >= 0,
// with P a minimax polynomial (relative error 4e-9 for t <= 14; beyond that Phi(-t) is below the
// smallest float32). Unlike (1 - erf) / 2 this loses nothing where it is small.
template <class D>
HWY_INLINE hn::Vec<D> NormalTail(D d, hn::Vec<D> t, hn::Vec<D> exponential) {
  constexpr float kP[] = {-0.020613231830845163f, 0.11237796444269284f,  -0.2280726481878083f,
                          0.19158852154408343f,   -0.07925298841209497f, 0.09606083734007358f,
                          0.07842455145625508f,   0.11022754095484937f,  0.11957281558995295f,
                          0.11968663537869f};
  const auto one = hn::Set(d, 1.0f);
  const auto s = hn::Div(one, hn::MulAdd(t, hn::Set(d, 0.3f), one));
  auto p = hn::Set(d, kP[0]);
  for (size_t i = 1; i < sizeof(kP) / sizeof(kP[0]); ++i) {
    p = hn::MulAdd(p, s, hn::Set(d, kP[i]));
  }
  return hn::IfThenElseZero(hn::Le(t, hn::Set(d, 13.0f)),
                            hn::Mul(exponential, hn::Mul(s, p)));
}

// gelu(x) = x Phi(x).
template <class D>
HWY_INLINE hn::Vec<D> GeluFloat(D d, hn::Vec<D> x) {
  const auto one = hn::Set(d, 1.0f);
  const auto t = hn::Abs(x);
  const auto exponential = hn::Exp(d, hn::Mul(hn::Mul(t, t), hn::Set(d, -0.5f)));
  const auto tail = NormalTail(d, t, exponential);
  // A NaN is in x itself, whatever became of the tail.
  return hn::Mul(x, hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(one, tail)));
}

// Float64 is for checking gradients, where precision counts and speed does not.
template <class D>
HWY_INLINE hn::Vec<D> GeluDouble(D d, hn::Vec<D> x) {
  double lanes[hn::MaxLanes(d)];
  hn::StoreU(x, d, lanes);
  for (double& lane : lanes) lane *= 0.5 * std::erfc(lane * -0.70710678118654752440);
  return hn::LoadU(d, lanes);
}

template <class D>
HWY_INLINE hn::Vec<D> Gelu(D d, hn::Vec<D> x) {
  if constexpr (std::is_same<hn::TFromD<D>, double>::value) {
    return GeluDouble(d, x);
  } else {
    return GeluFloat(d, x);
  }
}

// Not Max(x, 0), which would turn NaN into 0 on some machines.
template <class D>
HWY_INLINE hn::Vec<D> Relu(D d, hn::Vec<D> x) {
  return hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x);
}

template <typename T, class F>
void UpdateSums(const Finish<T>& finish, const F& f) {
  for (int64_t i = 0; i < finish.rows; ++i) {
    Accumulator<T>* row = finish.sums + i * finish.columns;
    ForEachVector<Accumulator<T>>(finish.columns, [&](auto d, int64_t j) HWY_ATTR {
      hn::StoreU(f(d, hn::LoadU(d, row + j), i, j), d, row + j);
    });
  }
}

// Sums (rows, columns), as they lie in y, plus the residual if there is one.
template <typename T>
void StoreRows(const Finish<T>& finish, const Accumulator<T>* sums, int64_t rows,
               int64_t columns) {
  using Sum = Accumulator<T>;
  for (int64_t i = 0; i < rows; ++i) {
    const Sum* row = sums + i * columns;
    T* y = finish.y + i * finish.y_stride;
    if (finish.residual == nullptr) {
      ForEachVector<Sum>(columns, [&](auto d, int64_t j) HWY_ATTR {
        StoreAs(d, hn::LoadU(d, row + j), y + j);
      });
    } else {
      const T* residual = finish.residual + i * finish.y_stride;
      ForEachVector<Sum>(columns, [&](auto d, int64_t j) HWY_ATTR {
        StoreAs(d, hn::Add(hn::LoadU(d, row + j), LoadAs(d, residual + j)), y + j);
      });
    }
  }
}

template <typename T>
void FinishSums(const Finish<T>& finish) {
  using Sum = Accumulator<T>;
  if (finish.column_bias != nullptr) {
    UpdateSums(finish, [&](auto d, auto v, int64_t, int64_t j) HWY_ATTR {
      return hn::Add(v, LoadAs(d, finish.column_bias + j));
    });
  }
  if (finish.row_bias != nullptr) {
    UpdateSums(finish, [&](auto d, auto v, int64_t i, int64_t) HWY_ATTR {
      return hn::Add(v, hn::Set(d, static_cast<Sum>(Widen(finish.row_bias[i]))));
    });
  }
  if (finish.activation == Activation::kRelu) {
    UpdateSums(finish, [](auto d, auto v, int64_t, int64_t) HWY_ATTR { return Relu(d, v); });
  }
  if (finish.activation == Activation::kGelu) {
    UpdateSums(finish, [](auto d, auto v, int64_t, int64_t) HWY_ATTR { return Gelu(d, v); });
  }
  if (!finish.transposed) return StoreRows(finish, finish.sums, finish.rows, finish.columns);
  if constexpr (std::is_same<T, Sum>::value) {
    if (finish.residual == nullptr) {
      // Rows of y one cache line's worth after the other, each as a whole.
      constexpr int64_t kColumns = 16;
      for (int64_t j = 0; j < finish.columns; j += kColumns) {
        TransposeLanes(finish.sums + j, finish.columns, finish.rows,
                       HWY_MIN(kColumns, finish.columns - j), finish.y + j * finish.y_stride,
                       finish.y_stride);
      }
      return;
    }
  }
  TransposeLanes(finish.sums, finish.columns, finish.rows, finish.columns, finish.workspace,
                 finish.rows);
  StoreRows(finish, finish.workspace, finish.columns, finish.rows);
}

template <typename T, typename Out>
void ScaleSums(const Accumulator<T>* sums, int64_t size, float scale, const Out* addend,
               Out* out) {
  using Sum = Accumulator<T>;
  ForEachVector<Sum>(size, [&](auto d, int64_t i) HWY_ATTR {
    const auto scaled = hn::Mul(hn::LoadU(d, sums + i), hn::Set(d, static_cast<Sum>(scale)));
    if constexpr (std::is_same<Sum, double>::value && std::is_same<Out, float>::value) {
      for (size_t lane = 0; lane < hn::Lanes(d); ++lane) {
        const double sum = sums[i + lane] * static_cast<double>(scale);
        out[i + lane] = static_cast<float>(addend == nullptr ? sum : sum + addend[i + lane]);
      }
    } else {
      StoreAs(d, addend == nullptr ? scaled : hn::Add(scaled, LoadAs(d, addend + i)), out + i);
    }
  });
}
