// What the products of difference_cpu.h are made of, in the accumulation type: differences, weights, shifted maps.
//
// Rows run along the pixels (flat maps, and all strides that nothing else fits) or along the channels. Along the pixels
// rows are channels, the two sides of a channel one after the other; along the channels rows are pixels, cut into blocks
// of `width` channels, first those of side a, then those of side b. Rows are filled up with zeros.
#pragma once

#include "passes/difference/api.h"
#include "passes/difference/lanes_cpu.h"

namespace fastiqa {

/// Elements [0, count) of both sides' rows, then zeros up to `width`. What lies `ahead` elements further on will be read
/// next: rows are short and far from each other, so the hardware does not foresee it.
template <class T, class A>
FASTIQA_CLONES void difference_rows(const T* ref, const T* a, const T* b, int64_t count, int64_t width, int64_t ahead,
                                    A* to_a, A* to_b) {
  constexpr int kBlock = 64, kLine = 64 / sizeof(T);  // shorter loops are unrolled before they could become vectors
  const auto difference = [&](int64_t i) __attribute__((always_inline)) {
    const A x = widen(ref[i]);
    to_a[i] = x - widen(a[i]);
    to_b[i] = x - widen(b[i]);
  };
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    if (ahead != 0)
      for (int k = 0; k < kBlock; k += kLine)
        for (const T* map : {ref, a, b}) __builtin_prefetch(map + i + k + ahead, 0, 3);
#pragma GCC ivdep
    for (int k = 0; k < kBlock; ++k) difference(i + k);
  }
  for (; i < count; ++i) difference(i);
  for (; i < width; ++i) to_a[i] = to_b[i] = 0;
}

/// The gradients of ref, a and b from those of both sides' rows.
template <class T, class A>
FASTIQA_CLONES void gradient_rows(const A* ga, const A* gb, int64_t count, T* ref, T* a, T* b) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) ref[i] = narrow<T>(ga[i] + gb[i]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) a[i] = narrow<T>(-ga[i]);
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) b[i] = narrow<T>(-gb[i]);
}

/// The same past the caches, by way of `staged`, three times `count` elements.
template <class T, class A>
void stream_gradient_rows(const A* ga, const A* gb, int64_t count, T* staged, T* ref, T* a, T* b) {
  gradient_rows(ga, gb, count, staged, staged + count, staged + 2 * count);
  stream(ref, staged, count);
  stream(a, staged + count, count);
  stream(b, staged + 2 * count, count);
}

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
  // one, fewer leave the cache to what is read (one thread, 3x256x112x112 float32: 4.3 instead of 4.9 ms).
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

}  // namespace fastiqa
