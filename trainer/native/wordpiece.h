// The tokenizer: texts to the ids of their word pieces, as `trainer/text/in_graph_wordpiece.py` finds them, a text at a time.
//
// What is done to each character is said by tables that are read off the Hugging Face tokenizer (trainer/text/character_tables.py),
// so its clean-up, accents, lower case and spaces are not programmed here. WordPiece: the longest piece first, as in
// google-research/bert's tokenization.py.

#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace trainer {

// A table over all code points, equal pages of 256 stored once.
struct PagedTable {
  const int32_t *page_of, *pages;

  int32_t At(int32_t point) const { return pages[page_of[point >> 8] * 256 + (point & 255)]; }
};

// As trainer.text.character_tables.CharacterTables.
struct CharacterTables {
  PagedTable replacement;
  const int32_t *replacement_values, *replacement_starts;
  PagedTable kind;
  bool reorders;  // whether marks are put in canonical order: else there are no `starters` and no `mark_order`
  PagedTable starters, mark_order;
};

enum CharacterKind { kWord, kSpace, kPunctuation };
constexpr int32_t kReplacement = 0xFFFD;  // for bytes that are no UTF-8
constexpr int32_t kSpecial = 0x110000;    // stands for a special token in a row of code points; one number for each
constexpr long kMaxCharactersOfWord = 100;

// Takes the code point that a string begins with off it; kReplacement for the longest start of one that goes wrong.
inline int32_t TakePoint(std::string_view* text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>((*text)[i]); };
  const uint8_t first = byte(0);
  const int more = first < 0x80 ? 0 : first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2
                 : first >= 0xF0 && first < 0xF5 ? 3 : -1;
  if (more <= 0) {
    text->remove_prefix(1);
    return more == 0 ? first : kReplacement;
  }
  int32_t point = first & (0x3F >> more);
  for (int i = 1; i <= more; ++i) {
    // No overlong forms, no surrogates, nothing beyond U+10FFFF: the second byte's range says so.
    const uint8_t low = i > 1 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = i > 1 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (static_cast<size_t>(i) >= text->size() || byte(i) < low || byte(i) > high) {
      text->remove_prefix(i);
      return kReplacement;
    }
    point = point << 6 | (byte(i) & 0x3F);
  }
  text->remove_prefix(more + 1);
  return point;
}

inline void AppendPoint(int32_t point, std::string* text) {
  if (point < 0x80) {
    text->push_back(static_cast<char>(point));
    return;
  }
  const int more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
  text->push_back(static_cast<char>((0xF00 >> (more + 1) & 0xFF) | point >> 6 * more));
  for (int i = more - 1; i >= 0; --i) text->push_back(static_cast<char>(0x80 | (point >> 6 * i & 0x3F)));
}

class WordPiece {
 public:
  // `vocabulary` by id, with empty strings where there is none; it is read later on, too. Special tokens are found in the raw text.
  WordPiece(const std::vector<std::string_view>& vocabulary, std::string_view suffix_indicator, int32_t unknown,
            std::vector<std::pair<std::string, int32_t>> specials)
      : unknown_(unknown), specials_(std::move(specials)) {
    for (size_t id = 0; id < vocabulary.size(); ++id) {
      const std::string_view piece = vocabulary[id];
      if (piece.empty()) continue;
      Add(&firsts_, piece, id);
      if (piece.size() > suffix_indicator.size() && piece.substr(0, suffix_indicator.size()) == suffix_indicator) {
        Add(&suffixes_, piece.substr(suffix_indicator.size()), id);
      }
    }
  }

  // The ids of a text, without [CLS] and [SEP]; it may stop once there are `limit`.
  std::vector<int32_t> Ids(const CharacterTables& tables, std::string_view text, size_t limit) const {
    std::vector<int32_t> points, ids;
    Normalize(tables, text, &points);
    std::string word;
    long characters = 0;
    const auto end_word = [&] {
      if (characters > kMaxCharactersOfWord) {
        ids.push_back(unknown_);
      } else if (characters > 0) {
        AppendPieces(word, &ids);
      }
      word.clear();
      characters = 0;
    };
    for (const int32_t point : points) {
      if (ids.size() >= limit) return ids;
      const int32_t kind = point >= kSpecial ? kPunctuation : tables.kind.At(point);
      if (kind != kWord) end_word();
      if (point >= kSpecial) {
        ids.push_back(specials_[point - kSpecial].second);
      } else if (kind != kSpace) {
        AppendPoint(point, &word);
        ++characters;
        if (kind == kPunctuation) end_word();
      }
    }
    end_word();
    return ids;
  }

 private:
  struct Pieces {
    std::unordered_map<std::string_view, int32_t> ids;
    size_t longest = 0;
  };

  static void Add(Pieces* pieces, std::string_view piece, size_t id) {
    pieces->ids[piece] = static_cast<int32_t>(id);
    pieces->longest = std::max(pieces->longest, piece.size());
  }

  // A text's code points as the tables replace them, marks in canonical order.
  void Normalize(const CharacterTables& tables, std::string_view text, std::vector<int32_t>* points) const {
    std::vector<std::pair<int32_t, int32_t>> order;  // of each code point: its run, and its rank there
    int32_t run = 0;
    bool in_order = true;
    while (!text.empty()) {
      const size_t before = points->size();
      const int32_t special = TakeSpecial(&text), point = special >= 0 ? kSpecial + special : TakePoint(&text);
      const int32_t entry = special >= 0 ? 0 : tables.replacement.At(point);
      if (entry == 0) {
        points->push_back(point);
      } else {
        const int32_t* starts = tables.replacement_starts;
        points->insert(points->end(), tables.replacement_values + starts[entry - 1], tables.replacement_values + starts[entry]);
      }
      if (!tables.reorders) continue;
      run += special >= 0 ? 1 : tables.starters.At(point);
      for (size_t i = before; i < points->size(); ++i) {
        const int32_t made = (*points)[i];
        order.emplace_back(run, made >= kSpecial ? 0 : tables.mark_order.At(made));
        in_order = in_order && (order.size() == 1 || order[order.size() - 2] <= order.back());
      }
    }
    if (in_order) return;
    std::vector<std::pair<std::pair<int32_t, int32_t>, int32_t>> keyed;
    for (size_t i = 0; i < points->size(); ++i) keyed.emplace_back(order[i], (*points)[i]);
    std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < points->size(); ++i) (*points)[i] = keyed[i].second;
  }

  // Takes a special token that a text begins with off it; returns its number, or -1.
  int32_t TakeSpecial(std::string_view* text) const {
    for (size_t i = 0; i < specials_.size(); ++i) {
      const std::string& token = specials_[i].first;
      if (text->substr(0, token.size()) == token) {
        text->remove_prefix(token.size());
        return static_cast<int32_t>(i);
      }
    }
    return -1;
  }

  void AppendPieces(std::string_view word, std::vector<int32_t>* ids) const {
    const size_t before = ids->size();
    const Pieces* pieces = &firsts_;
    while (!word.empty()) {
      size_t size = std::min(word.size(), pieces->longest);
      auto found = pieces->ids.find(word.substr(0, size));
      while (found == pieces->ids.end() && size > 1) found = pieces->ids.find(word.substr(0, --size));
      if (found == pieces->ids.end()) {
        ids->resize(before);
        ids->push_back(unknown_);
        return;
      }
      ids->push_back(found->second);
      word.remove_prefix(size);
      pieces = &suffixes_;
    }
  }

  Pieces firsts_, suffixes_;
  int32_t unknown_;
  std::vector<std::pair<std::string, int32_t>> specials_;
};

// Texts in rows, as the encoder reads them.
struct PackedTexts {
  long rows = 1, length = 1, slots = 1;
  std::vector<long> row, start, slot;  // of each text
};

// Puts texts, the ids of each, into rows one after the other, up to `row_tokens` in each, or one longer text.
inline PackedTexts PackInOrder(const std::vector<std::vector<int32_t>>& texts, long row_tokens) {
  PackedTexts packed;
  long row = 0, used = 0, slot = 0;
  for (const std::vector<int32_t>& text : texts) {
    const long length = static_cast<long>(text.size());
    if (slot > 0 && used + length > row_tokens) {
      ++row;
      used = slot = 0;
    }
    packed.row.push_back(row);
    packed.start.push_back(used);
    packed.slot.push_back(slot++);
    used += length;
    packed.length = std::max(packed.length, used);
    packed.slots = std::max(packed.slots, slot);
  }
  packed.rows = row + 1;
  return packed;
}

// Cuts the longer of a pair, then both, to `budget` together, as trainer/text/sequences.py's `pair_lengths` does.
inline void CutPair(std::vector<int32_t>* first, std::vector<int32_t>* second, size_t budget) {
  const size_t a = first->size(), b = second->size();
  if (a + b <= budget) return;
  size_t shorter = std::min(a, b), longer = std::max(shorter, budget - std::min(budget, shorter));
  if (shorter + longer > budget) {
    shorter = budget / 2;
    longer = budget / 2 + budget % 2;
  }
  first->resize(a > b ? longer : shorter);
  second->resize(a > b ? shorter : longer);
}

}  // namespace trainer
