// What cost_model.cu reckons with: rates of the kernels and of cuBLAS, as they were measured.
#ifndef BSPARSE_CUDA_COST_RATES_H_
#define BSPARSE_CUDA_COST_RATES_H_

namespace bsparse {

// Useful TFLOP/s on an H100, uniform random layouts (benchmarks/results). 16 bit: measured at
// C = K = N = 8192, at clocks that such products keep up; where the dense product ran instead, so at
// density 1, reckoned from 0.5, or from 0.1 for dw of blocks of 8, or from 0.25 and the padding for TF32
// products of blocks of 16. TF32 likewise. TF32 by sm80: blocks 32 and 128
// measured at density 0.1 and C = K = 4096, the other blocks reckoned from them by the 16-bit rates, and all
// densities taken to be alike. Three TF32 products: measured likewise, but for blocks of 8, which are
// guessed. Float32: measured on an H200 at 0.05 to 0.25, which are about alike. A GPU with
// other proportions is served less well, but never wrongly.
inline constexpr double kDensities[] = {0.05, 0.25, 1.0};

struct Rates {
  double at[3];  // of kDensities
};

// [block size 8, 16, 32, 64, 128][feature axis]
inline constexpr Rates kMatmul16[5][2] = {
    {{{63, 184, 480}}, {{55, 180, 460}}},
    {{{153, 257, 500}}, {{110, 240, 485}}},
    {{{236, 335, 510}}, {{215, 322, 520}}},
    {{{345, 455, 660}}, {{345, 455, 660}}},
    {{{390, 505, 660}}, {{390, 505, 660}}},
};
// Microseconds of products of 2^40 FLOP at density 1, C = K = N = 8192, on an H200: lines fitted to what uniform random
// layouts of densities from 0.01 to 0.2 took. [block size 8, 16]
struct Line {
  double at_0, slope;
  constexpr double at(double x) const { return at_0 + slope * x; }
};
struct SmallBlocks {
  Line sweep[2];   // over the density: by normal tiles their maximum
  Line wide[2];    // by wide ones [feature axis]
  Line unions[2];  // over their own density, as it is estimated (cc/plan/union_density). [feature axis]
  float densest_sweep;  // above which nothing was measured, or the dense matrix is faster
};
inline constexpr SmallBlocks kSmallBlocks16[2] = {
    {{{160, 4600}, {100, 6050}}, {}, {{136, 1407}, {232, 1377}}, 0.2f},
    {{{175, 2750}, {120, 3400}}, {{145, 2900}, {95, 5000}}, {{81, 1745}, {120, 2066}}, 0.2f},
};
inline constexpr SmallBlocks kSmallBlocksTf32[2] = {
    {{{190, 11900}, {}}, {{200, 13500}, {200, 13500}}, {}, 0.2f},  // no union tiles
    {{{280, 7200}, {}}, {{230, 7300}, {215, 7300}}, {{135, 4750}, {185, 4500}}, 0.3f},
};
inline constexpr Rates kMatmulDw16[5][2] = {
    {{{102, 115, 120}}, {{102, 115, 120}}},
    {{{160, 207, 215}}, {{160, 207, 215}}},
    {{{156, 304, 345}}, {{174, 323, 345}}},
    {{{270, 370, 395}}, {{270, 370, 395}}},  // on an H200
    {{{430, 570, 590}}, {{430, 570, 590}}},
};
inline constexpr Rates kMatmulTf32[5][2] = {
    {},  // no such kernels
    {{{63, 98, 132}}, {{57, 100, 190}}},
    {{{97, 152, 225}}, {{110, 160, 250}}},
    {{{121, 171, 250}}, {{129, 224, 290}}},
    {{{150, 202, 255}}, {{161, 244, 260}}},
};
inline constexpr Rates kMatmulDwTilesTf32[5][2] = {
    {{{54, 66, 66}}, {{47, 56, 56}}},
    {{{78, 105, 106}}, {{75, 86, 86}}},
    {{{94, 168, 190}}, {{99, 134, 137}}},
    {{{110, 163, 190}}, {{95, 126, 128}}},
    {{{148, 201, 205}}, {{109, 145, 148}}},
};
// On an H200. Blocks of 16 and 32: at 0.01, above which tiles are chosen soon.
inline constexpr Rates kMatmulDwColumnsTf32[5][2] = {
    {},
    {{{45, 45, 45}}, {}},
    {{{75, 75, 75}}, {{57, 57, 57}}},
    {{{154, 190, 190}}, {{132, 168, 178}}},
    {{{291, 307, 310}}, {{201, 220, 265}}},
};
// [block size], at any density. TF32 by sm80: of blocks of 8, unaligned memory, other GPUs.
inline constexpr double kMatmulTf32Sm80[5] = {8, 27, 80, 110, 115};
inline constexpr double kMatmulDwTf32Sm80[5] = {6, 21, 42, 68, 96};
inline constexpr double kMatmulTf32x3[5] = {8, 31, 42, 54, 54};
inline constexpr double kMatmulDwTf32x3[5] = {5, 13, 26, 42, 46};
inline constexpr double kMatmulFloat32[5] = {35, 38, 38, 38, 38};
inline constexpr double kMatmulDwFloat32[5] = {18, 23, 32, 34, 36};
inline constexpr double kDense16 = 750, kDenseFloat32 = 50;
// In TF32, of operands of which at least one lies along the sum (dense/matmul.cu turns those round that do not).
inline constexpr double kDenseTf32 = 360, kDenseDwTf32 = 356;

// Bytes a second that streams take out of L2, 1024 to 4096 inputs and outputs, batches of 256 to 2048, on an H200
// (docs/kernel-notes.md, "Layers of usual sizes"). [feature axis][block size]
inline constexpr double kStreamRate16[2][5] = {{9.4e12, 8.3e12, 1.02e13, 9.6e12, 1.03e13},
                                               {8.4e12, 6.3e12, 9.2e12, 8.8e12, 9.8e12}};
inline constexpr double kStreamRateTf32[2][5] = {{1, 4.6e12, 8e12, 8e12, 8.8e12},  // no streams of blocks of 8
                                                 {1, 4.6e12, 8.1e12, 8.5e12, 9.1e12}};

// The same of dw out of registers, 4096 x 4096 at a density of 0.25. [feature axis]
inline constexpr double kSmallDwRate16[2][5] = {{9.5e12, 7e12, 7e12, 7e12, 7e12},
                                                {6.5e12, 5e12, 4e12, 4e12, 4e12}};
inline constexpr double kSmallDwRateTf32[2][5] = {{6.9e12, 5.6e12, 4.1e12, 4.1e12, 4.1e12},
                                                  {3.5e12, 2.9e12, 2.8e12, 2.8e12, 2.8e12}};

// Bytes a second that copies reach: in an H100's memory, and in an H200's L2 where they fit.
inline constexpr double kMemoryRate = 2.8e12, kCachedRate = 5e12;
inline constexpr double kCacheBytes = 48e6;
// Steps of the batch that an item of dw computes in the time that its partial sums take: as DwSplits() of
// cc/plan/matmul_plan.cc has it.
inline constexpr double kStepsOfDwSplit = 4.5;

// What a product takes on an H200 that has next to nothing to do, in seconds: launches, the way to the first product, the
// last stores. Packed and arranged weights take a launch of their own, as do the dense matrix and the blocks' map.
inline constexpr double kStart = 5e-6;  // by sm80
// With so much for each batch entry, up to a batch that is split.
inline constexpr double kSmallDwStart = 3.5e-6, kSmallDwEntry = 1.2e-8, kMostOfSmallDwEntries = 5e-6;
inline constexpr double kStreamStart = 5e-6, kTurningStart = 1e-6;
inline constexpr double kUnionStart16 = 7e-6, kPackedUnionStart = 10e-6, kUnionStartTf32 = 9e-6;
inline constexpr double kSweepStart = 10e-6;
inline constexpr double kDwColumnsStart = 7e-6, kDwTilesStart = 10e-6;
inline constexpr double kDenseStart16 = 7e-6, kDenseStart32 = 10e-6;
// Of what is shorter, products or copies, so much is not hidden behind the other.
inline constexpr double kExposedOfDense = 0.2, kExposedOfDenseDw = 0.8, kMostExposedOfDense = 10e-6;

}  // namespace bsparse

#endif  // BSPARSE_CUDA_COST_RATES_H_
