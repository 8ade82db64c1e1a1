//! Data as YAML and JSON have it, piece by piece: what readers give and writers take, without a tree in between.

use std::borrow::Cow;
use std::fmt;

use crate::tree::declared_prefix;

/// A piece of data that holds no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaf<'a> {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer, of a magnitude below 2^53.
    Number(i64),
    /// Text.
    String(Cow<'a, str>),
}

/// Kinds of data that hold other data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collection {
    /// Keys, each with its value behind it.
    Mapping,
    /// Values.
    Sequence,
}

/// Takes one value, in pieces and in their order.
pub(crate) trait Sink<'a> {
    /// A value, or the part of one, that holds no other.
    fn leaf(&mut self, leaf: Leaf<'a>);
    /// What comes until the [`Sink::end`] that belongs to it lies inside of a collection.
    fn begin(&mut self, collection: Collection);
    /// The key of the value that comes next, in a mapping.
    fn key(&mut self, key: Cow<'a, str>);
    /// The end of the collection that began last and has not ended.
    fn end(&mut self);
}

/// The pieces of one value in a row.
#[derive(Default)]
pub(crate) struct Pieces<'a> {
    pieces: Vec<Piece<'a>>,
    /// Where the collections that have not ended begin, outermost first.
    open: Vec<usize>,
    has_declarations: bool,
}

pub(crate) enum Piece<'a> {
    Leaf(Leaf<'a>),
    /// A collection of so many pieces, which follow.
    Collection(Collection, usize),
    Key(Cow<'a, str>),
}

impl<'a> Sink<'a> for Pieces<'a> {
    fn leaf(&mut self, leaf: Leaf<'a>) {
        self.pieces.push(Piece::Leaf(leaf));
    }

    fn begin(&mut self, collection: Collection) {
        self.open.push(self.pieces.len());
        self.pieces.push(Piece::Collection(collection, 0));
    }

    fn key(&mut self, key: Cow<'a, str>) {
        self.has_declarations |= declared_prefix(&key).is_some();
        self.pieces.push(Piece::Key(key));
    }

    fn end(&mut self) {
        let Some(start) = self.open.pop() else { return };
        let inside = self.pieces.len() - start - 1;
        if let Some(Piece::Collection(_, length)) = self.pieces.get_mut(start) {
            *length = inside;
        }
    }
}

impl<'a> Pieces<'a> {
    pub(crate) fn with_capacity(pieces: usize) -> Self {
        Self { pieces: Vec::with_capacity(pieces), ..Self::default() }
    }

    /// How many collections have begun and not ended.
    pub(crate) fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether some key declares a namespace.
    pub(crate) fn has_declarations(&self) -> bool {
        self.has_declarations
    }

    /// The value.
    pub(crate) fn data(&self) -> Data<'_, 'a> {
        take(&mut self.pieces.as_slice()).unwrap_or(Data::Leaf(&Leaf::Null))
    }

    pub(crate) fn into_pieces(self) -> std::vec::IntoIter<Piece<'a>> {
        self.pieces.into_iter()
    }
}

/// A value among [`Pieces`].
#[derive(Clone, Copy)]
pub(crate) enum Data<'p, 'a> {
    Leaf(&'p Leaf<'a>),
    Mapping(Entries<'p, 'a>),
    Sequence(Items<'p, 'a>),
}

/// Keys and values of a mapping.
#[derive(Clone, Copy)]
pub(crate) struct Entries<'p, 'a>(&'p [Piece<'a>]);

/// Values of a sequence.
#[derive(Clone, Copy)]
pub(crate) struct Items<'p, 'a>(&'p [Piece<'a>]);

/// The value that `pieces` begin with, which they then do not any more.
fn take<'p, 'a>(pieces: &mut &'p [Piece<'a>]) -> Option<Data<'p, 'a>> {
    let (first, rest) = pieces.split_first()?;
    let (data, rest) = match first {
        Piece::Leaf(leaf) => (Data::Leaf(leaf), rest),
        Piece::Collection(collection, length) => {
            let (inside, rest) = rest.split_at_checked(*length)?;
            match collection {
                Collection::Mapping => (Data::Mapping(Entries(inside)), rest),
                Collection::Sequence => (Data::Sequence(Items(inside)), rest),
            }
        }
        Piece::Key(_) => return None,
    };
    *pieces = rest;
    Some(data)
}

impl<'p, 'a> Iterator for Items<'p, 'a> {
    type Item = Data<'p, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        take(&mut self.0)
    }
}

impl<'p, 'a> Iterator for Entries<'p, 'a> {
    type Item = (&'p str, Data<'p, 'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (Piece::Key(key), rest) = self.0.split_first()? else { return None };
        self.0 = rest;
        Some((key, take(&mut self.0)?))
    }
}

impl<'p> Entries<'p, '_> {
    /// Keys whose values are text.
    pub(crate) fn texts(self) -> impl Iterator<Item = (&'p str, &'p str)> {
        self.filter_map(|(key, value)| match value {
            Data::Leaf(Leaf::String(text)) => Some((key, &**text)),
            _ => None,
        })
    }
}

/// What a value is, for messages.
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Sequence,
    Mapping,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::String => "text",
            Self::Sequence => "a list",
            Self::Mapping => "a mapping",
        })
    }
}

impl Data<'_, '_> {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Leaf(Leaf::Null) => Kind::Null,
            Self::Leaf(Leaf::Bool(_)) => Kind::Bool,
            Self::Leaf(Leaf::Number(_)) => Kind::Number,
            Self::Leaf(Leaf::String(_)) => Kind::String,
            Self::Mapping(_) => Kind::Mapping,
            Self::Sequence(_) => Kind::Sequence,
        }
    }
}
