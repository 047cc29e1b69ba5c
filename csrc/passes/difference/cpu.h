// The difference pass (pass.h) on the CPU: products of small matrices. Differences are made once and stay in the
// first-level cache.
//
// A task has some pixels of a sample and all or some of its channels, so that a batch of one fills every thread, whether
// maps are large or channels many; the tasks' partial sums are added in a fixed order.
//
// Rows run along the pixels (flat maps, and all strides that nothing else fits) or along the channels. Along the pixels
// rows are channels, the two sides of a channel one after the other; along the channels rows are pixels, cut into blocks
// of `width` channels, first those of side a, then those of side b. Rows are filled up with zeros.
#pragma once

#include "core/matrix.h"
#include "passes/difference/api.h"
#include "passes/difference/lanes_cpu.h"

namespace fastiqa {

// ---- differences, weights and shifted maps, in the accumulation type ----

/// How a pass is cut into tasks. It depends on the sizes of one sample alone: neither threads nor batch change a sum.
struct Cut {
  bool flat;       // rows run along the pixels, else along the channels
  int64_t pixels;  // a task, a multiple of 64
  int64_t chunks;
  int64_t step;      // rows made at once: channels where they run along the pixels, else pixels
  int64_t width;     // along the channels: of a block of channels
  int64_t channels;  // a task
  int64_t splits;    // of the channels

  // 512 pixels of 4 channels, or 8 pixels of 256 channels: 16 KB of differences beside 9 rows of 2 KB of sums in a
  // first-level cache of 32 or 48 KB. With many rows the sums are in the second, and more rows at once spare it; with
  // one, fewer leave the cache to the inputs (one thread, 3x256x112x112 float32: 4.3 instead of 4.9 ms).
  template <class T>
  Cut(const Triple<T>& maps, int64_t rows) : flat(!maps.channels) {
    const bool many = rows > 16;
    const int64_t most = many ? 256 : 512;
    chunks = std::max<int64_t>(1, (maps.pixels() + most - 1) / most);
    pixels = up((maps.pixels() + chunks - 1) / chunks, 64);
    chunks = std::max<int64_t>(1, (maps.pixels() + pixels - 1) / pixels);
    step = many ? 16 : rows == 1 ? 2 : flat ? 4 : 8;
    width = std::min<int64_t>(256, up(maps.c, 16));
    const int64_t unit = flat ? step : width;
    splits = std::clamp<int64_t>((8 + chunks - 1) / chunks, 1, (maps.c + 63) / 64);
    channels = up((maps.c + splits - 1) / splits, unit);
    splits = (maps.c + channels - 1) / channels;
  }

  int64_t pitch() const { return pixels * chunks; }                                // of a whole map of sums
  int64_t index(int64_t side, int64_t c) const { return flat ? 2 * c + side : c / width * 2 * width + side * width + c % width; }
  int64_t indices(int64_t c) const { return flat ? up(2 * c, 16) : up(c, width) * 2; }

  /// f(c, index, count, step) for runs of channels whose indices are `step` apart.
  template <class F>
  void each_channel(int64_t channels, int64_t side, F f) const {
    for (int64_t c = 0; c < channels; c += width) f(c, index(side, c), std::min(width, channels - c), flat ? 2 : 1);
  }
};

/// One task: sample n, pixels [p, p + count), channels [c, c_end).
struct RowsPart {
  int64_t n, chunk, split, p, count, c, c_end;

  template <class T>
  RowsPart(const Cut& cut, const Triple<T>& maps, int64_t task)
      : n(task / cut.chunks / cut.splits),
        chunk(task % cut.chunks),
        split(task / cut.chunks % cut.splits),
        p(chunk * cut.pixels),
        count(std::min(cut.pixels, maps.pixels() - p)),
        c(split * cut.channels),
        c_end(std::min(maps.c, c + cut.channels)) {}
};

template <class T, class F>
void for_parts(const Cut& cut, const Triple<T>& maps, F f) {
  parallel_for(0, maps.n * cut.chunks * cut.splits, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(RowsPart(cut, maps, task));
  });
}

/// Differences of channels [c, c + channels) at pixels [p, p + count): rows of `width`, side after side.
template <class T, class A>
void channel_rows(const Triple<T>& maps, const RowsPart& part, int64_t c, int64_t channels, int64_t width, A* rows) {
  const int64_t ahead = c + 2 * channels <= part.c_end ? channels * maps.stride[0][1] : 0;
  for (int64_t g = 0; g < channels; ++g) {
    A *to_a = rows + 2 * g * width, *to_b = to_a + width;
    const auto at = [&](int k, int64_t i) { return maps.at(k, part.n, c + g, part.p + i); };
    if (maps.flat) {
      difference_rows(at(0, 0), at(1, 0), at(2, 0), part.count, width, ahead, to_a, to_b);
      continue;
    }
    for (int64_t i = 0; i < width; ++i) {
      const bool exists = i < part.count;
      const A x = exists ? A(widen(*at(0, i))) : A{0};
      to_a[i] = exists ? x - widen(*at(1, i)) : A{0};
      to_b[i] = exists ? x - widen(*at(2, i)) : A{0};
    }
  }
}

/// Differences of pixels [p, p + pixels) in a block of channels from c on.
template <class T, class A>
void pixel_rows(const Triple<T>& maps, int64_t n, int64_t p, int64_t pixels, int64_t c, int64_t width, A* rows) {
  const int64_t count = std::min(width, maps.c - c);
  for (int64_t i = 0; i < pixels; ++i)
    difference_rows(maps.at(0, n, c, p + i), maps.at(1, n, c, p + i), maps.at(2, n, c, p + i), count, width, 0,
                    rows + 2 * i * width, rows + (2 * i + 1) * width);
}

/// f(source, first, length) for the differences of channels [c, c + channels) at the part's pixels from `first` on: whole
/// vectors straight from the maps where that can be, the others from rows made in `made`, two a channel.
template <class T, class A, class F>
void along_pixels(const Triple<T>& maps, const RowsPart& part, int64_t c, int64_t channels, A* made, F f) {
  int64_t first = 0;
  if constexpr (kWidensLanes<std::remove_const_t<T>>) {
    first = maps.flat ? part.count / kLanes<A> * kLanes<A> : 0;
    const int64_t ahead = c + 2 * channels <= part.c_end ? channels : 0;
    MapRows<std::remove_const_t<T>> rows{{}, {}, ahead};
    for (int m = 0; m < 3; ++m) rows.map[m] = maps.at(m, part.n, c, part.p), rows.step[m] = maps.stride[m][1];
    if (first > 0) f(rows, 0, first);
    if (first == part.count) return;
  }
  RowsPart rest = part;
  rest.p += first;
  rest.count -= first;
  const int64_t width = up(rest.count, kLanes<A>);
  channel_rows(maps, rest, c, channels, width, made);
  f(MadeRows<A>{made, width}, first, width);
}

/// f(source, length) for the differences of pixels [p, p + pixels) in the block of channels from c on, likewise.
template <class T, class A, class F>
void along_channels(const Cut& cut, const Triple<T>& maps, int64_t n, int64_t p, int64_t pixels, int64_t c, A* made, F f) {
  if constexpr (kWidensLanes<std::remove_const_t<T>>) {
    const int64_t count = std::min(cut.width, maps.c - c);
    MapRows<std::remove_const_t<T>> rows{{}, {}, pixels};
    bool direct = maps.channels && count % kLanes<A> == 0;
    for (int m = 0; m < 3; ++m) {
      rows.map[m] = maps.at(m, n, c, p), rows.step[m] = maps.stride[m][3];
      direct &= maps.h == 1 || maps.stride[m][2] == maps.w * maps.stride[m][3];
    }
    if (direct) return f(rows, count);
  }
  pixel_rows(maps, n, p, pixels, c, cut.width, made);
  f(MadeRows<A>{made, cut.width}, cut.width);
}

/// Weights in the order of the rows: [sample][channel, side][row] along the pixels, [sample][row][block, side, channel]
/// along the channels.
template <class T>
Buffer<accumulator_t<T>> pack_weight(const WeightView& weight, const Cut& cut, int64_t n) {
  using A = accumulator_t<T>;
  const int64_t rows = weight.rows(), indices = cut.indices(weight.channels), all = weight.samples(n) * rows;
  Buffer<A> packed(all * indices);
  const int64_t across = cut.flat ? 1 : indices, along = cut.flat ? rows : 1;
  parallel_for(0, all, std::max<int64_t>(1, kGrain / indices), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      A* to = packed.get() + i / rows * rows * indices + i % rows * across;
      for (int64_t j = 2 * weight.channels; j < indices && cut.flat; ++j) to[j * along] = 0;
      for (int64_t j = 0; j < indices && !cut.flat; ++j) to[j * along] = 0;
      for (int64_t side = 0; side < 2; ++side)
        cut.each_channel(weight.channels, side, [&](int64_t c, int64_t index, int64_t count, int64_t step) {
          const T* from = static_cast<const T*>(weight.data) + weight.at(i / rows, i % rows, side, c);
          for (int64_t k = 0; k < count; ++k) to[(index + k * step) * along] = widen(from[k * weight.channel]);
        });
    }
  });
  return packed;
}

/// The part's pixels of every map, moved by every tap: rows of `cut.pixels`, zero where the map ends.
template <class T, class A>
void shifted_rows(const View& maps, int64_t size, const RowsPart& part, int64_t width, A* rows) {
  const int64_t h = maps.sizes[2], w = maps.sizes[3], taps = size * size;
  std::fill_n(rows, maps.sizes[1] * taps * width, A{0});
  for (int64_t r = 0; r < maps.sizes[1] * taps; ++r) {
    const int64_t down = r % taps / size - size / 2, right = r % taps % size - size / 2;
    const T* map = static_cast<const T*>(maps.data) + part.n * maps.strides[0] + r / taps * maps.strides[1];
    for (int64_t y = part.p / w; y * w < part.p + part.count; ++y) {
      if (y - down < 0 || y - down >= h) continue;
      const int64_t first = std::max({part.p - y * w, right, int64_t{0}});
      const int64_t last = std::min({part.p + part.count - y * w, w + right, w});
      const T* from = map + (y - down) * maps.strides[2] - right * maps.strides[3];
      A* to = rows + r * width + y * w - part.p;
      if (maps.strides[3] == 1)
        for (int64_t x = first; x < last; ++x) to[x] = widen(from[x]);
      else
        for (int64_t x = first; x < last; ++x) to[x] = widen(from[x * maps.strides[3]]);
    }
  }
}

// ---- the sums, the products and the spread ----

/// y[n][o][p] = bias[o] + sum over taps, sides, channels of weight * d(p + shift).
template <class T>
void difference_sums(const Triple<const T>& maps, const WeightView& weight, const T* bias, int64_t bias_stride,
                     const View& y, const Tensor&) {
  using A = accumulator_t<T>;
  const int64_t rows = weight.rows(), taps = weight.taps();
  const Cut cut(maps, rows);
  const auto packed = pack_weight<T>(weight, cut, maps.n);
  const int64_t pitch = cut.pitch(), indices = cut.indices(maps.c);
  Buffer<A> sums(cut.splits * maps.n * rows * pitch);
  const auto sums_at = [&](int64_t split, int64_t n, int64_t row) {
    return sums.get() + ((split * maps.n + n) * rows + row) * pitch;
  };

  // First what each row of the weight makes of the differences at a pixel itself ...
  for_parts(cut, maps, [&](const RowsPart& part) {
    const A* w = packed.get() + (weight.sample == 0 ? 0 : part.n) * rows * indices;
    A* to = sums_at(part.split, part.n, 0) + part.p;
    if (cut.flat) {
      Buffer<A> d(2 * cut.step * cut.pixels);
      for (int64_t c = part.c; c < part.c_end; c += cut.step) {
        const int64_t channels = std::min(cut.step, part.c_end - c);
        along_pixels(maps, part, c, channels, d.get(), [&](const auto& source, int64_t first, int64_t length) {
          weighted_differences(source, channels, length, w + 2 * c * rows, rows, to + first, pitch, c > part.c);
        });
      }
    } else {
      Buffer<A> d(cut.step * 2 * cut.width);
      const auto step = [&](int64_t c, int64_t i) {
        const int64_t pixels = std::min(cut.step, part.count - i);
        along_channels(cut, maps, part.n, part.p + i, pixels, c, d.get(), [&](const auto& source, int64_t length) {
          differences_along_weights(source, pixels, length, w + 2 * c, indices, cut.width, rows, to + i, pitch,
                                    c > part.c);
        });
      };
      if (rows <= 16)  // pixels one after the other, as they lie in memory
        for (int64_t i = 0; i < part.count; i += cut.step)
          for (int64_t c = part.c; c < part.c_end; c += cut.width) step(c, i);
      else  // a block of the weight stays in the second-level cache
        for (int64_t c = part.c; c < part.c_end; c += cut.width)
          for (int64_t i = 0; i < part.count; i += cut.step) step(c, i);
    }
  });

  // ... then these, moved by their taps, together.
  const int64_t h = maps.h, wide = maps.w, grain = std::max<int64_t>(1, kGrain / (wide * taps * cut.splits));
  parallel_for(0, maps.n * weight.outputs * h, grain, [&](int64_t begin, int64_t end) {
    Buffer<A> line(wide);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / h / weight.outputs, o = i / h % weight.outputs, row = i % h;
      std::fill_n(line.get(), wide, bias ? A(widen(bias[o * bias_stride])) : A{0});
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t from = row + t / weight.size - weight.size / 2, right = t % weight.size - weight.size / 2;
        if (from < 0 || from >= h) continue;
        const int64_t first = std::max<int64_t>(0, -right), last = std::min(wide, wide - right);
        for (int64_t split = 0; split < cut.splits; ++split) {
          const A* s = sums_at(split, n, o * taps + t) + from * wide + right;
          for (int64_t x = first; x < last; ++x) line.get()[x] += s[x];
        }
      }
      T* to = static_cast<T*>(y.data) + n * y.strides[0] + o * y.strides[1] + row * y.strides[2];
      for (int64_t x = 0; x < wide; ++x) to[x * y.strides[3]] = narrow<T>(line.get()[x]);
    }
  });
}

/// One of difference_products' sums over samples [n, end), of the products that exist, one by one. NaN ends it.
template <class T>
double product_exactly(const Triple<const T>& maps, const View& map, int64_t size, int64_t n, int64_t end, int64_t r,
                       int64_t side, int64_t c) {
  const int64_t o = r / (size * size), down = r % (size * size) / size - size / 2, right = r % size - size / 2;
  double sum = 0;
  for (; n < end; ++n)
    for (int64_t y = std::max<int64_t>(0, down); y < std::min(maps.h, maps.h + down); ++y)
      for (int64_t x = std::max<int64_t>(0, right); x < std::min(maps.w, maps.w + right) && sum == sum; ++x) {
        const int64_t p = y * maps.w + x;
        const auto& s = map.strides;
        const T value = static_cast<const T*>(map.data)[n * s[0] + o * s[1] + (y - down) * s[2] + (x - right) * s[3]];
        sum += widen(value) * (widen(*maps.at(0, n, c, p)) - widen(*maps.at(side + 1, n, c, p)));
      }
  return sum;
}

/// g[n][o][s][c][t] = sum over q of map(q - shift) * d(q), or its sum over the samples.
template <class T>
void difference_products(const Triple<const T>& maps, const View& map, const WeightView& g, bool each,
                         const Tensor&) {
  using A = accumulator_t<T>;
  const int64_t rows = g.rows();
  const Cut cut(maps, rows);
  const int64_t indices = cut.indices(maps.c);
  Buffer<A> parts(maps.n * cut.chunks * rows * indices);

  for_parts(cut, maps, [&](const RowsPart& part) {
    Buffer<A> shifted(rows * cut.pixels);
    shifted_rows<T>(map, g.size, part, cut.pixels, shifted.get());
    A* to = parts.get() + (part.n * cut.chunks + part.chunk) * rows * indices;
    if (cut.flat) {
      Buffer<A> d(2 * cut.step * cut.pixels);
      for (int64_t c = part.c; c < part.c_end; c += cut.step) {
        const int64_t channels = std::min(cut.step, part.c_end - c);
        along_pixels(maps, part, c, channels, d.get(), [&](const auto& source, int64_t first, int64_t length) {
          differences_along_maps(source, channels, length, static_cast<const A*>(shifted.get()) + first, cut.pixels, rows,
                                 to + 2 * c, indices, first > 0);
        });
      }
    } else {
      Buffer<A> d(cut.step * 2 * cut.width);
      for (int64_t c = part.c; c < part.c_end; c += cut.width)
        for (int64_t i = 0; i < part.count; i += cut.step) {
          const int64_t pixels = std::min(cut.step, part.count - i);
          along_channels(cut, maps, part.n, part.p + i, pixels, c, d.get(), [&](const auto& source, int64_t length) {
            mapped_differences(source, pixels, length, static_cast<const A*>(shifted.get()) + i, cut.pixels, rows,
                               to + 2 * c, indices, cut.width, i > 0);
          });
        }
    }
  });

  const int64_t samples = each ? maps.n : 1, together = each ? cut.chunks : maps.n * cut.chunks;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, indices * together));
  parallel_for(0, samples * rows, grain, [&](int64_t begin, int64_t end) {
    Buffer<double> line(indices);  // parts are few, but each is a sum of many
    for (int64_t i = begin; i < end; ++i) {
      std::fill_n(line.get(), indices, 0.0);
      for (int64_t k = 0; k < together; ++k) {
        const A* from = parts.get() + ((i / rows * together + k) * rows + i % rows) * indices;
        for (int64_t x = 0; x < indices; ++x) line.get()[x] += from[x];
      }
      for (int64_t side = 0; side < 2; ++side)
        cut.each_channel(maps.c, side, [&](int64_t c, int64_t index, int64_t count, int64_t step) {
          T* to = static_cast<T*>(g.data) + g.at(i / rows, i % rows, side, c);
          for (int64_t k = 0; k < count; ++k) {
            double sum = line.get()[index + k * step];
            // An infinite difference has met the zeros beyond the border, which are no products.
            if (sum != sum && g.size > 1) {
              const int64_t n = i / rows;
              sum = product_exactly(maps, map, g.size, n, each ? n + 1 : maps.n, i % rows, side, c + k);
            }
            to[k * g.channel] = narrow<T>(static_cast<A>(sum));
          }
        });
    }
  });
}

/// difference_spread's sums of the products that exist, one by one.
template <class T>
void spread_exactly(const View& map, const WeightView& weight, const Triple<T>& grads, const RowsPart& part) {
  using A = accumulator_t<T>;
  const T *m = static_cast<const T*>(map.data), *w = static_cast<const T*>(weight.data);
  for (int64_t p = part.p; p < part.p + part.count; ++p)
    for (int64_t c = part.c; c < part.c_end; ++c) {
      A g[2] = {};
      for (int64_t r = 0; r < weight.rows(); ++r) {
        const int64_t t = r % weight.taps(), y = p / grads.w - t / weight.size + weight.size / 2;
        const int64_t x = p % grads.w - t % weight.size + weight.size / 2;
        if (y < 0 || y >= grads.h || x < 0 || x >= grads.w) continue;
        const auto& s = map.strides;
        const A value = widen(m[part.n * s[0] + r / weight.taps() * s[1] + y * s[2] + x * s[3]]);
        for (int side = 0; side < 2; ++side) g[side] += value * widen(w[weight.at(part.n, r, side, c)]);
      }
      gradient_rows(&g[0], &g[1], 1, grads.at(0, part.n, c, p), grads.at(1, part.n, c, p), grads.at(2, part.n, c, p));
    }
}

/// The gradients of ref, a and b: g_s[n][c][q] = sum over outputs and taps of weight * map(q - shift).
template <class T>
void difference_spread(const View& map, const WeightView& weight, const Triple<T>& grads, const Tensor&) {
  using A = accumulator_t<T>;
  const int64_t rows = weight.rows();
  const Cut cut(grads, rows);
  const int64_t indices = cut.indices(grads.c);
  const auto packed = pack_weight<T>(weight, cut, grads.n);

  // A weight of infinity must not meet the zeros beyond the border, which are no products.
  const A* end = packed.get() + weight.samples(grads.n) * rows * indices;
  const bool finite = std::all_of(static_cast<const A*>(packed.get()), end, [](A x) { return x - x == 0; });

  const int64_t run = (cut.flat ? std::min(cut.pixels, grads.pixels()) : std::min(cut.width, grads.c)) * sizeof(T);
  const bool streamed = (cut.flat ? grads.flat : grads.channels) &&
                        streams(3 * grads.n * grads.c * grads.pixels() * static_cast<int64_t>(sizeof(T)), run);
  const auto put = [&](const A* ga, const A* gb, int64_t count, T* staged, const auto& at) {
    if (streamed) return stream_gradient_rows(ga, gb, count, staged, at(0), at(1), at(2));
    gradient_rows(ga, gb, count, at(0), at(1), at(2));
  };

  for_parts(cut, grads, [&](const RowsPart& part) {
    const A* w = packed.get() + (weight.sample == 0 ? 0 : part.n) * rows * indices;
    if (!finite) return spread_exactly(map, weight, grads, part);
    Buffer<A> shifted(rows * cut.pixels);
    shifted_rows<T>(map, weight.size, part, cut.pixels, shifted.get());
    if (cut.flat) {
      Buffer<A> g(2 * cut.step * cut.pixels);
      Buffer<T> staged(3 * cut.pixels);
      for (int64_t c = part.c; c < part.c_end; c += cut.step) {
        const int64_t channels = std::min(cut.step, part.c_end - c);
        rows_times<A>({g.get(), cut.pixels, 1}, false, 2 * channels, cut.pixels, {w + 2 * c * rows, rows, 1},
                      {shifted.get(), cut.pixels, 1}, rows);
        for (int64_t i = 0; i < channels; ++i) {
          const A *ga = g.get() + 2 * i * cut.pixels, *gb = ga + cut.pixels;
          const auto at = [&](int k, int64_t j) { return grads.at(k, part.n, c + i, part.p + j); };
          if (grads.flat)
            put(ga, gb, part.count, staged.get(), [&](int k) { return at(k, 0); });
          else
            for (int64_t j = 0; j < part.count; ++j) gradient_rows(ga + j, gb + j, 1, at(0, j), at(1, j), at(2, j));
        }
      }
    } else {
      Buffer<A> g(cut.step * 2 * cut.width);
      Buffer<T> staged(3 * cut.width);
      for (int64_t i = 0; i < part.count; i += cut.step)
        for (int64_t c = part.c; c < part.c_end; c += cut.width) {
          const int64_t pixels = std::min(cut.step, part.count - i), p = part.p + i;
          rows_times<A>({g.get(), 2 * cut.width, 1}, false, pixels, 2 * cut.width, {shifted.get() + i, 1, cut.pixels},
                        {w + 2 * c, indices, 1}, rows);
          for (int64_t j = 0; j < pixels; ++j)
            put(g.get() + 2 * j * cut.width, g.get() + (2 * j + 1) * cut.width, std::min(cut.width, part.c_end - c),
                staged.get(), [&](int k) { return grads.at(k, part.n, c, p + j); });
        }
    }
    if (streamed) end_stream();
  });
}

}  // namespace fastiqa
