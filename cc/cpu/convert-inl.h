// Vectors of accumulators (float or double) from and to the stored types.
//
// Included once for each instruction set, inside its namespace: hence no include guard.

template <class D>
HWY_INLINE hn::Vec<D> LoadAs(D d, const hn::TFromD<D>* p) {
  return hn::LoadU(d, p);
}

template <class D>
HWY_INLINE hn::Vec<D> LoadAs(D d, const BFloat16* p) {
  const hn::Rebind<uint32_t, D> du32;
  const hn::Rebind<uint16_t, D> du16;
  const auto bits = hn::LoadU(du16, reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du32, bits)));
}

template <class D>
HWY_INLINE void StoreAs(D d, hn::Vec<D> v, hn::TFromD<D>* p) {
  hn::StoreU(v, d, p);
}

// The bits of v rounded to bfloat16, in the upper halves. Highway's own conversion truncates.
template <class D>
HWY_INLINE hn::Vec<hn::Rebind<uint32_t, D>> RoundedBFloat16Bits(D, hn::Vec<D> v) {
  const hn::Rebind<uint32_t, D> du32;
  const auto bits = hn::BitCast(du32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du32, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du32, 0x7fffu)), odd);
  // Adding could carry a NaN into Inf or -0.
  const auto quiet = hn::Or(bits, hn::Set(du32, 0x400000u));
  return hn::IfThenElse(hn::RebindMask(du32, hn::IsNaN(v)), quiet, rounded);
}

template <class D>
HWY_INLINE void StoreAs(D d, hn::Vec<D> v, BFloat16* p) {
  const hn::Rebind<uint16_t, D> du16;
  const hn::Rebind<int32_t, D> di32;
  const auto upper = hn::ShiftRight<16>(RoundedBFloat16Bits(d, v));
  hn::StoreU(hn::DemoteTo(du16, hn::BitCast(di32, upper)), du16, reinterpret_cast<uint16_t*>(p));
}

// Their float16 conversions truncate.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
template <class D>
HWY_INLINE hn::Vec<D> LoadAs(D d, const Float16* p) {
  HWY_ALIGN hn::TFromD<D> lanes[hn::MaxLanes(D())];
  for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = Widen(p[i]);
  return hn::Load(d, lanes);
}

template <class D>
HWY_INLINE void StoreAs(D d, hn::Vec<D> v, Float16* p) {
  HWY_ALIGN hn::TFromD<D> lanes[hn::MaxLanes(D())];
  hn::Store(v, d, lanes);
  for (size_t i = 0; i < hn::Lanes(d); ++i) p[i] = Narrow<Float16>(lanes[i]);
}

template <class D>
HWY_INLINE hn::Vec<D> RoundTo(D d, hn::Vec<D> v, Float16) {
  Float16 rounded[hn::MaxLanes(D())];
  StoreAs(d, v, rounded);
  return LoadAs(d, rounded);
}
#else
template <class D>
HWY_INLINE hn::Vec<D> LoadAs(D d, const Float16* p) {
  const hn::Rebind<hwy::float16_t, D> df16;
  return hn::PromoteTo(d, hn::LoadU(df16, reinterpret_cast<const hwy::float16_t*>(p)));
}

template <class D>
HWY_INLINE void StoreAs(D, hn::Vec<D> v, Float16* p) {
  const hn::Rebind<hwy::float16_t, D> df16;
  hn::StoreU(hn::DemoteTo(df16, v), df16, reinterpret_cast<hwy::float16_t*>(p));
}

template <class D>
HWY_INLINE hn::Vec<D> RoundTo(D d, hn::Vec<D> v, Float16) {
  const hn::Rebind<hwy::float16_t, D> df16;
  return hn::PromoteTo(d, hn::DemoteTo(df16, v));
}
#endif

// v with the precision of the type of the last argument.
template <class D>
HWY_INLINE hn::Vec<D> RoundTo(D, hn::Vec<D> v, float) {
  return v;
}

template <class D>
HWY_INLINE hn::Vec<D> RoundTo(D, hn::Vec<D> v, double) {
  return v;
}

template <class D>
HWY_INLINE hn::Vec<D> RoundTo(D d, hn::Vec<D> v, BFloat16) {
  const hn::Rebind<uint32_t, D> du32;
  return hn::BitCast(d, hn::And(RoundedBFloat16Bits(d, v), hn::Set(du32, 0xffff0000u)));
}

// Calls f(d, i) so that vectors with tag d, each at its own i, cover [0, size).
template <typename Lane, class F>
HWY_INLINE void ForEachVector(int64_t size, const F& f) {
  const hn::ScalableTag<Lane> d;
  const hn::CappedTag<Lane, 1> d1;
  int64_t i = 0;
  for (; i + static_cast<int64_t>(hn::Lanes(d)) <= size; i += hn::Lanes(d)) f(d, i);
#if HWY_TARGET != HWY_SCALAR
  const hn::CappedTag<Lane, 8> d8;  // half of an AVX-512 vector: the width of the smallest block
  for (; i + static_cast<int64_t>(hn::Lanes(d8)) <= size; i += hn::Lanes(d8)) f(d8, i);
#endif
  for (; i < size; ++i) f(d1, i);
}
